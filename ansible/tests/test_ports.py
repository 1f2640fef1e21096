"""Which port a service gets."""

import json
import os
import pathlib
import re
import socket
import tempfile
import unittest

from tests.support import HOST, ROOT, load

ports = load(ROOT / "library" / "lockstep_ports.py")


def placement(service, port=None, taken=(), lowest=10, highest=13):
    return {"service": service, "host": "a", "ports": [lowest, highest], "taken": list(taken), "port": port}


def choose(*placements, noted=None, foreign=(), listens=None):
    return ports.choose(list(placements), noted or {}, foreign, (listens or {}).get, "host-a")


class Choice(unittest.TestCase):
    def test_the_lowest_that_is_free(self):
        self.assertEqual(choose(placement("6"), placement("7")), {"6": 10, "7": 11})
        self.assertEqual(choose(placement("6", taken=[10, 12]), foreign=[11]), {"6": 13})
        self.assertEqual(choose(placement("6"), listens={10: "process 1 (x)"}), {"6": 11})

    def test_what_is_recorded_stays_and_is_left_to_its_service(self):
        self.assertEqual(choose(placement("6"), placement("7", port=10)), {"7": 10, "6": 11})
        self.assertEqual(choose(placement("7", port=99), listens={99: "7"}), {"7": 99})

    def test_what_was_noted_is_chosen_again(self):
        self.assertEqual(choose(placement("6"), noted={"6": 12}), {"6": 12})
        self.assertEqual(choose(placement("6"), noted={"6": 12}, listens={12: "6"}), {"6": 12})
        # It comes after another one that has it noted, and before it in the order.
        self.assertEqual(choose(placement("6"), placement("7"), noted={"7": 10}), {"6": 11, "7": 10})
        # Of no use any more: not of the range, recorded for another service, or somebody else's.
        self.assertEqual(choose(placement("6"), noted={"6": 99}), {"6": 10})
        self.assertEqual(choose(placement("6", taken=[12]), noted={"6": 12}), {"6": 10})
        self.assertEqual(choose(placement("6"), noted={"6": 12}, listens={12: "process 1 (x)"}), {"6": 10})

    def test_what_another_has_been_given_meanwhile(self):
        # As where a machine was made anew, and another environment has chosen first; it does not listen at the moment.
        folder = "/srv/orders/4+test/services/9"
        with self.assertRaisesRegex(ports.Refused, "port 10 of service 6: on host-a it has been given to another service meanwhile, " + re.escape(folder)):
            choose(placement("6", port=10), foreign={10: folder})
        # A copy of its folder beside it takes nothing away from it.
        for more in ({"noted": {"6": 10}}, {"listens": {10: "6"}}):
            self.assertEqual(choose(placement("6", port=10), foreign={10: folder}, **more), {"6": 10})

    def test_all_that_cannot_be_are_named(self):
        with self.assertRaises(ports.Refused) as refused:
            choose(placement("6", port=10), placement("7", highest=10), listens={10: "process 5 (sshd)"})
        self.assertIn("port 10 of service 6: on host-a process 5 (sshd) listens there", str(refused.exception))
        self.assertIn("service 7: no port from 10 to 10 is free on host-a", str(refused.exception))


class Host(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = os.path.join(folder.name, "orders")
        self.fence = {"path": os.path.join(folder.name, "fence.json"), "fence": 7, "job": "A"}
        pathlib.Path(self.fence["path"]).write_text(json.dumps({"fence": 7, "job": "A"}))

    def place(self, environment, *placements):
        return ports.apply(self.base, os.path.join(self.base, environment), "host-a", list(placements), self.fence)

    def test_environments_that_know_nothing_of_each_other_choose_differently(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken = server.getsockname()[1]
            first = self.place("3+test", placement("6", lowest=taken, highest=taken + 50))
            self.assertTrue(first["changed"])
            self.assertGreater(first["ports"]["6"], taken)
            second = self.place("4+test", placement("6", lowest=taken, highest=taken + 50))
            self.assertGreater(second["ports"]["6"], first["ports"]["6"])
            again = self.place("3+test", placement("6", lowest=taken, highest=taken + 50))
            self.assertEqual((again["changed"], again["ports"]), (False, first["ports"]))
            with self.assertRaisesRegex(ports.Refused, r"process %d \(python3.*\) listens there" % os.getpid()):
                self.place("3+test", placement("6", port=taken))
        self.assertEqual(os.stat(os.path.join(self.base, "3+test", "services", "6")).st_mode & 0o777, 0o700)

    def test_a_listener_is_found_with_its_session(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            self.assertEqual(HOST.listener(port)[:2], (os.getpid(), os.getsid(0)))
        self.assertIsNone(HOST.listener(port))

    def test_names_and_fence(self):
        with self.assertRaisesRegex(ports.Refused, "not the name of a service"):
            self.place("3+test", placement("../6"))
        self.fence["fence"] = 6
        with self.assertRaisesRegex(ports.Refused, "no longer that of this host"):
            self.place("3+test", placement("6"))
        self.assertFalse(os.path.exists(os.path.join(self.base, "3+test")))


if __name__ == "__main__":
    unittest.main()
