#!/usr/bin/python3
"""Git repositories, as the runner sees them: hosts need not reach any.

    resolve    which commit each revision is: null is HEAD; then a branch, a tag (what it stands for), or a full commit id, which is taken as
               it is if the repository answers. All that do not answer or lack the revision are named in one failure.
    export     the files of one commit as a tar file: all of them, also those that .gitattributes keeps out of archives. Only this commit is
               fetched where the server allows it, else everything. Submodules are left out.

git never asks for anything, takes no URL for an option, and uses no protocol but those below. What it says is shown without the user and the
password of a URL.
"""

import concurrent.futures
import os
import re
import subprocess
import tempfile

DOCUMENTATION = r"""
module: lockstep_repository
short_description: Resolves revisions of Git repositories, or exports the files of a commit
options:
  resolve: {description: "Repositories: service, url and revision (or null).", type: list, elements: dict}
  url: {description: Repository to export from., type: str}
  commit: {description: Commit to export., type: str}
  dest: {description: The tar file to write., type: path}
"""

PROTOCOLS = "https:http:ssh:git:file"
COMMIT = re.compile(r"[0-9a-f]{40}")
ANSWER_WAIT = 60  # seconds for a list of revisions
FETCH_WAIT = 900  # seconds for the files
AT_ONCE = 8


class Refused(Exception):
    """The repository cannot be reached, or has not what is asked for."""


# --- pure -------------------------------------------------------------------------------------------------------------


def shown(text):
    """The text without user and password of the URLs in it; the user that ssh needs is no secret, but of no use either."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "", text)


def checked(url):
    if not isinstance(url, str) or not url or re.search(r"[\x00-\x20\x7f]", url):
        raise Refused("the URL is empty or has characters that no URL has")
    return url


def candidates(revision):
    """The references that a revision may be, best first."""
    if revision is None:
        return ["HEAD"]
    return ["refs/heads/" + revision, "refs/tags/" + revision + "^{}", "refs/tags/" + revision]


def found(listing, revision):
    """The commit of a revision in what `git ls-remote` lists."""
    references = {}
    for line in listing.splitlines():
        commit, _tab, name = line.partition("\t")
        references[name] = commit
    for name in candidates(revision):
        if COMMIT.fullmatch(references.get(name, "")):
            return references[name]
    raise Refused("the repository is empty" if revision is None else "there is no branch, tag or full commit id %r" % revision)


# --- git --------------------------------------------------------------------------------------------------------------


def git(*arguments, seconds):
    environ = dict(
        os.environ, GIT_TERMINAL_PROMPT="0", GIT_ASKPASS="true", SSH_ASKPASS="true", GIT_ALLOW_PROTOCOL=PROTOCOLS, LC_ALL="C.UTF-8",
        GIT_SSH_COMMAND="ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15", GIT_SSH_VARIANT="ssh",
    )  # fmt: skip
    try:
        done = subprocess.run(
            ["git", *arguments], env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise Refused("no answer within %d s" % seconds) from None
    if done.returncode:
        said = shown(done.stderr.decode("utf-8", "replace")).strip()
        raise Refused(" ".join(said.split())[-500:] or "git ended with %d and said nothing" % done.returncode)
    return done.stdout.decode("utf-8", "replace")


def resolve_one(url, revision):
    if revision is not None and (not isinstance(revision, str) or not revision or re.search(r"[\x00-\x20\x7f]", revision)):
        raise Refused("%r is not a revision" % (revision,))
    checked(url)
    if not revision or not COMMIT.fullmatch(revision):
        return found(git("ls-remote", "--", url, *candidates(revision), seconds=ANSWER_WAIT), revision)
    # A repository lists what its branches and tags are at, and no other commit.
    with tempfile.TemporaryDirectory(prefix="repository-") as folder:
        fetch(folder, url, revision)
    return revision


def resolve(repositories):
    """Commits by service."""
    commits, trouble = {}, []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        asked = [(one, threads.submit(resolve_one, one.get("url"), one.get("revision"))) for one in repositories]
        for one, answer in asked:
            try:
                commits[str(one["service"])] = answer.result()
            except Refused as refused:
                trouble.append("repository of service %s (%s): %s" % (one["service"], shown(str(one.get("url"))), refused))
    if trouble:
        raise Refused("\n".join(trouble))
    return commits


def fetch(folder, url, commit):
    """A commit, into a repository in an empty folder."""
    git("init", "--quiet", "--bare", folder, seconds=ANSWER_WAIT)
    into = ("-C", folder, "fetch", "--quiet", "--no-tags")
    try:
        git(*into, "--depth=1", "--", url, commit, seconds=FETCH_WAIT)
    except Refused:
        git(*into, "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", seconds=FETCH_WAIT)
    try:
        git("-C", folder, "cat-file", "-e", commit + "^{commit}", seconds=ANSWER_WAIT)
    except Refused:
        raise Refused("there is no commit %s" % commit) from None


def export(url, commit, dest):
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise Refused("%r is not a full commit id" % (commit,))
    checked(url)
    with tempfile.TemporaryDirectory(prefix="repository-") as folder:
        fetch(folder, url, commit)
        if not git("-C", folder, "ls-tree", commit, seconds=ANSWER_WAIT):
            raise Refused("commit %s has no files" % commit)
        # Here it goes before what the repository itself says.
        with open(os.path.join(folder, "info", "attributes"), "w", encoding="ascii") as file:
            file.write("* -export-ignore -export-subst\n")
        git("-C", folder, "archive", "--format=tar", "--output=" + dest, commit, seconds=FETCH_WAIT)


def main():
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "resolve": {"type": "list", "elements": "dict"},
            "url": {"type": "str"},
            "commit": {"type": "str"},
            "dest": {"type": "path"},
        },
        required_one_of=[["resolve", "url"]],
        mutually_exclusive=[["resolve", "url"]],
        required_together=[["url", "commit", "dest"]],
    )
    asked = module.params
    try:
        if asked["resolve"] is not None:
            module.exit_json(changed=False, commits=resolve(asked["resolve"]))
        export(asked["url"], asked["commit"], asked["dest"])
        module.exit_json(changed=True)
    except Refused as refused:
        message = str(refused)
        if asked["url"] is not None:
            message = "repository %s: %s" % (shown(asked["url"]), message)
        module.fail_json(msg=message, refused=True)
    except OSError as error:
        module.fail_json(msg="git cannot be run here: %s" % error)


if __name__ == "__main__":
    main()
