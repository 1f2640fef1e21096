"""The fence's table of cases, and what holds when jobs arrive together or the file is damaged."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import unittest

from tests.support import ROOT, load

fence = load(ROOT / "library" / "lockstep_fence.py")


def arrive(path, number, job, barrier, results):
    barrier.wait()
    try:
        fence.apply(path, number, job)
        results.put((number, job, True))
    except fence.Refused:
        results.put((number, job, False))


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = os.path.join(folder.name, "fence", "app-one.epfl.ch.json")

    def stored(self):
        with open(self.path, encoding="utf-8") as file:
            return json.load(file)

    def store(self, number, job):
        fence.apply(self.path, number, job)


class Table(Case):
    def test_first_job_passes_and_is_written(self):
        result = fence.apply(self.path, 7, "A")
        self.assertTrue(result["changed"])
        self.assertIsNone(result["stored"])
        self.assertEqual(self.stored(), {"fence": 7, "job": "A"})

    def test_higher_passes_and_is_written(self):
        self.store(7, "A")
        self.assertTrue(fence.apply(self.path, 8, "B")["changed"])
        self.assertEqual(self.stored(), {"fence": 8, "job": "B"})

    def test_higher_of_the_same_job_passes(self):
        self.store(7, "A")
        fence.apply(self.path, 9, "A")
        self.assertEqual(self.stored(), {"fence": 9, "job": "A"})

    def test_equal_of_the_same_job_passes_unchanged(self):
        self.store(7, "A")
        self.assertFalse(fence.apply(self.path, 7, "A")["changed"])

    def test_equal_of_another_job_is_refused_and_both_are_named(self):
        self.store(7, "A")
        with self.assertRaisesRegex(fence.Refused, "fence 7 of job B .* job A"):
            fence.apply(self.path, 7, "B")
        self.assertEqual(self.stored(), {"fence": 7, "job": "A"})

    def test_lower_is_refused_and_both_are_named(self):
        self.store(9, "A")
        for job in ("A", "B"):
            with self.assertRaisesRegex(fence.Refused, f"fence 8 of job {job} is lower than fence 9 of job A"):
                fence.apply(self.path, 8, job)
        self.assertEqual(self.stored(), {"fence": 9, "job": "A"})

    def test_numbers_compare_as_numbers(self):
        self.store(9, "A")
        fence.apply(self.path, 10, "B")
        self.store(1763690000000, "C")
        fence.apply(self.path, 2**63 + 1, "D")

    def test_damaged_file_is_refused(self):
        self.store(7, "A")
        for text in ("", "{", "[]", '{"fence": "7", "job": "A"}', '{"fence": true, "job": "A"}', '{"fence": 7}', "\x00", "\xff"):
            with open(self.path, "w", encoding="latin-1") as file:
                file.write(text)
            with self.subTest(text), self.assertRaisesRegex(fence.Refused, "damaged"):
                fence.apply(self.path, 10**15, "B")

    def test_check_mode_writes_nothing(self):
        fence.apply(self.path, 7, "A", check_mode=True)
        self.assertFalse(os.path.exists(os.path.dirname(self.path)))
        self.store(7, "A")
        fence.apply(self.path, 8, "B", check_mode=True)
        self.assertEqual(self.stored(), {"fence": 7, "job": "A"})
        with self.assertRaises(fence.Refused):
            fence.apply(self.path, 6, "B", check_mode=True)

    def test_nothing_is_left_beside_the_file(self):
        for number in range(1, 20):
            self.store(number, "A")
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), ["app-one.epfl.ch.json", "app-one.epfl.ch.json.lock"])


class Switch(Case):
    def setUp(self):
        super().setUp()
        self.link = os.path.join(self.folder, "current")

    def test_switches_and_names_what_was_before(self):
        self.assertEqual(fence.apply(self.path, 1, "A", self.link, "releases/A")["link_before"], "")
        self.assertEqual(fence.apply(self.path, 2, "B", self.link, "releases/B")["link_before"], "releases/A")
        self.assertEqual(os.readlink(self.link), "releases/B")
        self.assertFalse(fence.apply(self.path, 2, "B", self.link, "releases/B")["changed"])

    def test_empty_removes_the_link(self):
        fence.apply(self.path, 1, "A", self.link, "releases/A")
        fence.apply(self.path, 1, "A", self.link, "")
        self.assertFalse(os.path.lexists(self.link))
        self.assertFalse(fence.apply(self.path, 1, "A", self.link, "")["changed"])

    def test_job_that_was_overtaken_cannot_switch(self):
        fence.apply(self.path, 1, "A")
        fence.apply(self.path, 2, "B", self.link, "releases/B")
        with self.assertRaises(fence.Refused):
            fence.apply(self.path, 1, "A", self.link, "releases/A")
        self.assertEqual(os.readlink(self.link), "releases/B")

    def test_a_folder_is_not_replaced(self):
        os.mkdir(self.link)
        with self.assertRaisesRegex(fence.Refused, "not a symbolic link"):
            fence.apply(self.path, 1, "A", self.link, "releases/A")

    def test_left_over_of_a_killed_switch_does_no_harm(self):
        os.symlink("x", os.path.join(self.folder, ".current.%d" % os.getpid()))
        fence.apply(self.path, 1, "A", self.link, "releases/A")
        self.assertEqual(os.readlink(self.link), "releases/A")


class Together(Case):
    def arrive(self, jobs):
        context = multiprocessing.get_context("fork")
        barrier, results = context.Barrier(len(jobs)), context.Queue()
        workers = [context.Process(target=arrive, args=(self.path, number, job, barrier, results)) for number, job in jobs]
        for worker in workers:
            worker.start()
        passed = [results.get(timeout=30) for _ in workers]
        for worker in workers:
            worker.join(30)
        return {(number, job) for number, job, ok in passed if ok}

    def test_two_jobs_with_one_fence_one_passes(self):
        for number in range(1, 21):
            passed = self.arrive([(number, "A"), (number, "B")])
            self.assertEqual(len(passed), 1)
            self.assertEqual({(self.stored()["fence"], self.stored()["job"])}, passed)

    def test_of_many_the_highest_is_what_stays(self):
        for first in range(1, 100, 10):
            passed = self.arrive([(first + n, "job%d" % n) for n in range(8)])
            self.assertIn((first + 7, "job7"), passed)
            self.assertEqual(self.stored(), {"fence": first + 7, "job": "job7"})

    def test_a_lock_that_is_held_too_long_is_refused_in_time(self):
        holder = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f,2); print('held',flush=True); sys.stdin.read()"
        self.store(1, "A")
        child = subprocess.Popen(
            [sys.executable, "-c", holder, self.path + ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.assertEqual(child.stdout.readline(), "held\n")
            before, fence.LOCK_WAIT = fence.LOCK_WAIT, 1
            self.addCleanup(setattr, fence, "LOCK_WAIT", before)
            with self.assertRaisesRegex(fence.Refused, "lock of .* held for 1 s"):
                fence.apply(self.path, 2, "B")
        finally:
            child.communicate("")
        fence.apply(self.path, 2, "B")


if __name__ == "__main__":
    unittest.main()
