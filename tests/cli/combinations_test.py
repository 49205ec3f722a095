"""The real program with rules of one method in another: a rule brings the parts that it needs."""

import unittest

from support import ProgramTest

VIT = ["--model.name=vit", "--model.embed=8", "--model.heads=2", "--model.depth=2", "--model.patch=6",
       "--method.widths=0.75, 0.5"]


class RulesOfOtherMethods(ProgramTest):
    def test_masked_depth_brings_its_search_to_any_method(self):
        for method in "fedbuff", "heterofl":
            settings = [f"--method.name={method}", "--method.submodel=masked_depth", *VIT]
            check = self.espalier("run", self.input, *settings, "--check")
            self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
            self.assertIn("while it searches", check.stdout)
            self.run_ok(method, *settings, ranks=2)

    def test_a_search_that_no_client_makes_is_refused(self):
        done = self.espalier("run", self.input, "--method.submodel=rolling", "--method.search=masks", "--check")
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertIn("set method.submodel = masked_depth", done.stderr)


if __name__ == "__main__":
    unittest.main()
