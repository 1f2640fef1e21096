"""Who is sent where: what the changes make of the state, and what nginx is told."""

import contextlib
import json
import os
import pathlib
import re
import tempfile
import unittest
from unittest import mock

from tests.support import ROOT, load

traffic = load(ROOT / "library" / "lockstep_traffic.py")
SETTINGS = {"root": "/srv/proxy/x", "port": 80, "test_port": 81, "peer_port": 82, "split_key": "$remote_addr", "drain": 10}
PORTS = {("back", "a"): 1, ("back", "b"): 2, ("front", "a"): 3, ("front", "b"): 4}


class Case(unittest.TestCase):
    def setUp(self):
        self.state = {}

    def change(self, what, **request):
        self.state = traffic.change(self.state, {"change": what, **request})
        return self.state

    def offer(self, name, slot, release, services=("back", "front"), what="offer", **more):
        request = {"port": PORTS.get((name, slot), 5), "folder": f"/{name}/{slot}", "release": release, "version": release, **more}
        return self.change(what, service=name, slot=slot, services=list(services), **request)

    def both(self, slot, release, **more):
        for name in ("back", "front"):
            self.offer(name, slot, release, **more)

    def live(self):
        return {name: entry["live"] and entry["live"]["release"] for name, entry in self.state.items()}

    def peers(self):
        """(caller, slot, peer) → colour, of those whose release has both."""
        return {tuple(key.split("/")): seen for key, seen in re.findall(r'^    "(\w+/\w/\w+)" (\S+);', traffic.render(self.state, SETTINGS), re.M)}


class Changes(Case):
    def test_switch_is_for_all_or_none(self):
        self.both("a", "R1")
        self.assertEqual(self.live(), {"back": None, "front": None})
        self.change("switch", services=["back", "front"], release="R1")
        self.offer("back", "b", "R2")
        with self.assertRaisesRegex(traffic.Refused, "is there of front; nothing"):
            self.change("switch", services=["back", "front"], release="R2")
        self.offer("front", "b", "R2")
        self.change("switch", services=["back", "front"], release="R2")
        self.assertEqual(self.live(), {"back": "R2", "front": "R2"})
        self.assertEqual(self.change("switch", services=["back", "front"], release="R2"), self.state)
        self.change("back", services=["back", "front"], release="R2")
        self.assertEqual(self.live(), {"back": "R1", "front": "R1"})
        with self.assertRaises(traffic.Refused):
            self.change("switch", services=[], release="R2")

    def test_the_share_is_the_lowest_and_100_switches_all(self):
        self.both("a", "R1", what="take")
        self.offer("back", "b", "R2", share=50)
        self.assertEqual(traffic.share(self.state, "back"), 0)
        self.offer("front", "b", "R2", share=10)
        self.assertEqual({traffic.share(self.state, name) for name in self.state}, {10})
        self.assertIn("10% green; * blue;", traffic.render(self.state, SETTINGS))
        self.offer("front", "b", "R2", share=100)
        self.assertEqual({traffic.share(self.state, name) for name in self.state}, {50})
        self.offer("back", "b", "R2", share=100)
        self.assertEqual(self.live(), {"back": "R2", "front": "R2"})

    def test_a_version_is_known_before_it_gets_traffic_and_after_it_has_lost_it(self):
        def way(**request):
            return [(traffic.share(state, "back"), bool(state["back"]["other"]), state["back"]["live"]["release"]) for state in traffic.way(self.state, request)]

        offer = {"service": "back", "slot": "b", "port": 2, "folder": "/", "release": "R2", "version": "2"}
        self.both("a", "R1", what="take")
        self.assertEqual(way(change="take", **offer), [(0, True, "R1"), (0, True, "R2")])
        self.assertEqual(way(change="offer", share=10, **offer), [(0, True, "R1"), (10, True, "R1")])
        self.change("offer", share=10, **offer)
        self.assertEqual(way(change="offer", share=50, **offer), [(50, True, "R1")])
        self.assertEqual(way(change="drop", services=["back"]), [(0, True, "R1"), (0, False, "R1")])
        self.assertEqual(way(change="offer", share=100, **offer), [(0, True, "R2")])

    def test_a_live_slot_is_never_overwritten(self):
        self.offer("back", "a", "R1", what="take")
        with self.assertRaisesRegex(traffic.Refused, "is live"):
            self.offer("back", "a", "R2")

    def test_drop_and_remove(self):
        self.offer("back", "a", "R1", what="take")
        self.offer("back", "b", "R2")
        self.change("drop", services=["back", "front"])
        self.assertIsNone(self.state["back"]["other"])
        self.assertEqual(self.change("remove", services=["back"]), {})
        self.offer("back", "a", "R3")
        self.assertEqual(self.change("drop", services=["back"]), {})

    def test_drop_of_what_was_seen_of_the_release_or_retired(self):
        self.offer("back", "a", "R1", what="take")
        self.offer("back", "b", "R2")
        for request in ({"release": "R3"}, {"seen": {}}, {"seen": {"back": {**self.state["back"]["other"], "retired": True}}}):
            self.assertIsNotNone(self.change("drop", services=["back"], **request)["back"]["other"])
        self.change("remove", services=["back"], release="R3")
        self.assertEqual(self.live(), {"back": "R1"})
        self.assertIsNone(self.change("drop", services=["back"], seen={"back": self.state["back"]["other"]})["back"]["other"])
        self.offer("back", "b", "R2", what="take")
        self.assertIsNone(self.change("drop", services=["back"], release="R2")["back"]["other"])
        self.assertEqual(self.change("remove", services=["back"], release="R2"), {})

    def test_a_slot_is_renewed_without_traffic(self):
        self.both("a", "R1", what="take")
        self.both("b", "R2", share=10)
        states = traffic.way(self.state, {"change": "renew", "service": "back", "slot": "b"})
        self.assertEqual([(traffic.share(state, "back"), bool(state["back"]["other"])) for state in states], [(0, True), (0, False)])
        with self.assertRaisesRegex(traffic.Refused, "slot a of back is live"):
            self.change("renew", service="back", slot="a")

    def test_a_port_is_that_of_one(self):
        self.both("a", "R1", what="take")
        request = {"change": "offer", "service": "back", "slot": "b", "folder": "/", "release": "R2", "version": "2"}
        for port, words in ((3, "port 3 of back is that of front"), (1, "is that of its other slot"), (80, "is the proxy's own")):
            with self.assertRaisesRegex(traffic.Refused, words):
                traffic.way(self.state, {**request, "port": port}, [80, 81])
        self.assertEqual(traffic.way(self.state, {**request, "port": 2}, [80, 81])[-1]["back"]["other"]["port"], 2)

    def test_many_jobs_may_wait_for_each_others_requests(self):
        waits = []

        @contextlib.contextmanager
        def locked(_path, seconds):
            waits.append(seconds)
            raise traffic.Refused("enough")
            yield

        with tempfile.TemporaryDirectory() as folder, mock.patch.object(traffic, "locked", locked), mock.patch("shutil.which", return_value="nginx"):
            for drain in (10, 30):
                with self.assertRaises(traffic.Refused):
                    traffic.apply({**SETTINGS, "root": folder, "drain": drain}, {"change": "show"})
        # Twenty services of a bracket, three changes each.
        self.assertGreaterEqual(waits[0], 20 * 3 * 10)
        self.assertEqual(waits[1], 3 * waits[0])

    def test_what_is_found(self):
        request = {"service": "back", "release": "R1", "version": "R1"}
        self.assertEqual(traffic.found({}, request)["slot"], "a")
        self.offer("back", "a", "R1", what="take")
        found = traffic.found(self.state, request)
        self.assertEqual((found["there"], found["slot"], found["free"], found["switched"]), ("live", "a", "b", True))
        found = traffic.found(self.state, {**request, "version": "other"})
        self.assertEqual((found["there"], found["slot"], found["switched"]), ("", "b", True))

    def test_names_and_files_that_are_not_what_they_must_be(self):
        for name in ('x"', "a b", "", None, "{", "-x", "a\n"):
            with self.assertRaises(traffic.Refused):
                self.offer(name, "a", "R1")
        for text in ("", "server {}", "# lockstep: [1]\n", '# lockstep: {"a": {}}\n', "# lockstep: {\n"):
            with self.assertRaisesRegex(traffic.Refused, "damaged"):
                traffic.parse(text)


class Fence(unittest.TestCase):
    def test_only_the_job_that_holds_the_fence_passes(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "app.json")
            for text, words in (
                (None, "is not there"),
                ("{", "damaged"),
                ("[]", "damaged"),
                ('{"fence": 8, "job": "B"}', "fence 8 of job B is; nothing"),
                ('{"fence": 7, "job": "B"}', "nothing was changed"),
                ('{"fence": 7, "job": "A"}', None),
            ):
                if text is not None:
                    pathlib.Path(path).write_text(text)
                with self.subTest(text), self.assertRaisesRegex(traffic.Refused, words) if words else contextlib.nullcontext():
                    traffic.compare_fence(path, 7, "A")


class Colours(Case):
    def test_each_reaches_its_own_before_and_after_the_switch(self):
        self.both("a", "R1", what="take")
        self.offer("front", "b", "R2")
        # Green's backend is not there yet: no answer, rather than blue's.
        self.assertEqual(self.peers()["front", "b", "back"], "none")
        self.assertEqual(self.peers()["front", "a", "back"], "blue")
        self.offer("back", "b", "R2")
        self.assertEqual(self.peers()["front", "b", "back"], "green")
        self.assertEqual(self.peers()["front", "a", "back"], "blue")
        self.change("switch", services=["back", "front"], release="R2")
        self.assertEqual(self.peers()["front", "b", "back"], "blue")
        self.assertEqual(self.peers()["front", "a", "back"], "old")

    def test_a_service_outside_the_release_is_everybody(self):
        self.both("a", "R1", what="take")
        self.offer("back", "b", "R2", services=["back"], share=10)
        self.assertEqual(self.peers()["front", "a", "back"], "$lot_0")
        self.assertEqual(self.peers()["back", "b", "front"], "blue")

    def test_a_version_is_looked_for_as_a_word(self):
        (pattern,) = re.findall(r'^proxy_version_pattern: "(.*)"$', (ROOT / "roles/proxy/vars/main.yml").read_text(), re.MULTILINE)
        before, after = pattern.split("{{ proxy_version | string | regex_escape }}")
        for version, text, there in (
            ("1.2", '{"version": "1.2"}', True), ("1.2", "1.2", True), ("1.2", "this is 1.2.", True), ("1.2", "1.2\n", True), ("1.2", "a 1.2, b", True),
            ("1.2", "1.2.3", False), ("1.2", "11.2", False), ("1.2", "v1.2", False), ("1.2", "0.1.2", False), ("1.2", "1x2", False),
            ("1.2", "1.2-rc", False), ("1.2", "1.2+b", False), ("1.2", "rc-1.2", False), ("1.2+b", "at 1.2+b now", True),
        ):  # fmt: skip
            with self.subTest(version=version, text=text):
                self.assertEqual(bool(re.search(before + re.escape(version) + after, text)), there)

    def test_the_state_is_in_the_file(self):
        self.offer("back", "a", 'R"1\n}')
        text = traffic.render(self.state, SETTINGS)
        self.assertEqual(traffic.parse(text), self.state)
        self.assertEqual(json.loads(text.split("\n")[0][len(traffic.MARK) :]), self.state)
        self.assertNotIn("}\n}", text.split("\n", 1)[0])
        self.assertEqual(traffic.parse_kept(text), {key: SETTINGS[key] for key in ("port", "test_port", "peer_port", "split_key", "drain")})
        # What was written when all of it was one line, without settings, is read as well.
        self.assertEqual(traffic.parse(traffic.MARK + json.dumps(self.state) + "\n# Written\n"), self.state)
        self.assertEqual(traffic.parse_kept(traffic.MARK + "{}\n"), {})
        with self.assertRaisesRegex(traffic.Refused, "damaged"):
            traffic.parse_kept("# settings: {\n")

    def test_a_long_state_is_on_several_lines(self):
        names = ["service-%d" % number for number in range(30)]
        for name in names:
            self.offer(name, "a", "R1", services=names, port=names.index(name) + 100)
        text = traffic.render(self.state, SETTINGS)
        self.assertEqual(traffic.parse(text), self.state)
        self.assertLessEqual(max(len(line) for line in text.split("\n") if line.startswith("#")), 2000)


if __name__ == "__main__":
    unittest.main()
