"""Domains and routes: what a change makes of the state, and what nginx is told."""

import pathlib
import re
import tempfile
import unittest

from tests.support import ROOT, load

routes = load(ROOT / "library" / "lockstep_routes.py")
A, B = "a.example", "b.example"


def route(path="/", domain=A, service="6", address="10.1.2.3", port=20001):
    return {"domain": domain, "path": path, "service": service, "address": address, "port": port}


def locations(*given):
    state = routes.change({}, "routes", [A], given)
    return dict(re.findall(r"location (\S+|= \S+) \{ (.*) \}", "\n".join(routes.locations(state[A]))))


class Changes(unittest.TestCase):
    def test_domains_are_added_and_those_that_are_there_stay(self):
        state = routes.change({}, "routes", [A], [route("/x")])
        after = routes.change(state, "domains", [A, B])
        self.assertEqual((after[A], after[B]), (state[A], []))
        self.assertEqual(routes.change(state, "domains", [B])[A], state[A])

    def test_routes_drop_domains_that_are_not_named(self):
        state = routes.change({}, "domains", [A, B])
        self.assertEqual(list(routes.change(state, "routes", [B], [route(domain=B)])), [B])

    def test_what_cannot_be_routed_is_refused(self):
        for given, words in (
            ([route(domain=B)], "belongs to no domain"),
            ([route("/x"), route("/x/")], "routed twice"),
            ([route("x")], "not a path"),
        ):
            with self.subTest(given), self.assertRaisesRegex(routes.Refused, words):
                routes.change({}, "routes", [A], given)
        for path in ("", "x", "/a b", '/a"', "/a;", "/a{", "/$x", "/a\n", "//", "/a//b", "/..", "/a/../b", "/%61", "/a\\", None):
            with self.subTest(path), self.assertRaises(routes.Refused):
                routes.change({}, "routes", [A], [route(path)])
        for address in ("", "a b", "a;", "a/b", "$x", None):
            with self.subTest(address), self.assertRaises(routes.Refused):
                routes.change({}, "routes", [A], [route(address=address)])
        for domain in ("", "A.example", "a..b", "*.a", "a b", "a;", "-a", "a" * 64, "a\n", None):
            with self.subTest(domain), self.assertRaises(routes.Refused):
                routes.change({}, "domains", [domain])


class Configuration(unittest.TestCase):
    def test_a_prefix_is_taken_off_at_the_borders_of_a_path(self):
        told = locations(route("/core/"))
        self.assertEqual(list(told), ['= "/core"', '"/core/"', "/"])
        for match in ('= "/core"', '"/core/"'):
            self.assertEqual(told[match], 'set $prefix "/core"; proxy_pass http://10.1.2.3:20001/; '
                             'proxy_redirect default; proxy_redirect "~^/(?!core(?:/|$))(.*)$" "/core/$1";')
        self.assertIn("return 404", told["/"])

    def test_without_a_prefix_the_path_goes_on_as_it_came(self):
        self.assertEqual(locations(route()), {'"/"': 'set $prefix ""; proxy_pass http://10.1.2.3:20001;'})

    def test_the_state_is_in_the_file(self):
        state = routes.change({}, "routes", [A, B], [route("/x", service='6"\n}')])
        text = routes.render(state, {"root": "/srv", "port": 80, "drain": 1})
        self.assertEqual(routes.parse(text), state)
        for damaged in ("", "server {}", routes.MARK + "[1]\n", routes.MARK + '{"a": [{}]}\n', routes.MARK + "{\n"):
            with self.assertRaisesRegex(routes.Refused, "damaged"):
                routes.parse(damaged)

    def test_hosts_leads_each_domain_to_the_proxy(self):
        lines = routes.hosts(routes.change({}, "domains", [B, A]), "10.1.2.3").splitlines()
        self.assertEqual(lines[1:], [f"10.1.2.3 {A}", f"10.1.2.3 {B}"])


class Fence(unittest.TestCase):
    def test_a_job_that_was_overtaken_changes_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            fence = pathlib.Path(folder) / "fence.json"
            fence.write_text('{"fence": 8, "job": "B"}')
            # A change gets as far as looking for nginx, which the runner has not.
            settings = {"root": folder + "/proxy", "port": 80, "drain": 1, "address": "::1", "fence": {"path": str(fence), "fence": 7, "job": "A"}}
            found, routes.Nginx = routes.Nginx, lambda settings: type("Nginx", (), {"file": settings["root"] + "/nginx.conf"})
            self.addCleanup(setattr, routes, "Nginx", found)
            with self.assertRaisesRegex(routes.Refused, "no longer that of this host"):
                routes.apply(settings, "domains", [A], None)
            self.assertEqual([file.name for file in (pathlib.Path(folder) / "proxy").iterdir()], ["nginx.conf.lock"])


if __name__ == "__main__":
    unittest.main()
