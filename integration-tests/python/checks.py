"""What the official client gets from a healthy cluster, from a refused login, from a server error and
from a node that goes away under it.

Talks to the test that runs it: `kill ALIAS` on standard output asks for the node to be killed, a line
on standard input says that it is done.
"""

import argparse
import sys
import warnings

import dolphindb as ddb

warnings.simplefilter("ignore")

CHUNK_COLUMNS = [
    "chunkId",
    "file",
    "size",
    "version",
    "vcLength",
    "versionChain",
    "state",
    "replicas",
    "replicaCount",
    "lastUpdated",
    "permission",
]
OPEN_CHUNKS = (
    'select * from rpc(getControllerAlias(), getClusterChunksStatus) where state != "COMPLETE" '
)
ALL_CHUNKS = "select * from rpc(getControllerAlias(), getClusterChunksStatus)"


def same(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: {found!r} instead of {expected!r}")


def error_of(run):
    """Returns the text of the error that a call must end with."""
    try:
        found = run()
    except RuntimeError as error:
        return str(error)
    sys.exit(f"no error but {found!r}")


def connect(site, password="123456", **more):
    host, port = site.split(":")
    session = ddb.Session()
    return session, session.connect(host, int(port), "admin", password, **more)


def answers(session, options):
    same("1+1", session.run("1+1"), 2)
    same("version()", session.run("version()"), options.version)
    same("alias", session.run("getNodeAlias()") in options.aliases, True)
    versions = session.run("pnodeRun(version)")
    same("pnodeRun's columns", list(versions.columns), ["node", "value"])
    same("pnodeRun's nodes", sorted(versions["node"]), sorted(options.aliases))
    same("pnodeRun's versions", set(versions["value"]), {options.version})
    still_open = session.run(OPEN_CHUNKS)
    same("open chunks' columns", list(still_open.columns), CHUNK_COLUMNS)
    same("open chunks", len(still_open), 0)
    chunks = session.run(ALL_CHUNKS)
    same("some chunks", len(chunks) > 0, True)
    same("states", set(chunks["state"]), {"COMPLETE"})
    same("replicas", set(chunks["replicaCount"]), {2})


def errors(session):
    text = error_of(lambda: session.run("foo bar"))
    same("an unknown word", "Syntax Error: [line #1] Cannot recognize the token foo" in text, True)
    text = error_of(lambda: session.run("nosuchfunction", 1))
    same("an unknown function", "Can't recognize function name nosuchfunction" in text, True)
    text = error_of(lambda: session.run("throw 'boom'"))
    same("an exception", "Server Response: 'throw 'boom' => boom'" in text, True)
    same("the session afterwards", session.run("1+1"), 2)


def refused(options):
    """A wrong password: `connect` says no and raises nothing."""
    session, connected = connect(options.sites[0], password="wrong")
    same("a wrong password", connected, False)
    session.close()


def failover(options):
    session, connected = connect(
        options.sites[0], highAvailability=True, highAvailabilitySites=options.sites
    )
    same("connected", connected, True)
    before = session.run("getNodeAlias()")
    print(f"kill {before}", flush=True)
    sys.stdin.readline()
    after = session.run("getNodeAlias()")
    same("another node answers", after != before and after in options.aliases, True)
    same("it answers right", session.run("1+1"), 2)
    session.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", required=True, type=lambda text: text.split(","))
    parser.add_argument("--aliases", required=True, type=lambda text: text.split(","))
    parser.add_argument("--version", required=True)
    options = parser.parse_args()
    session, connected = connect(options.sites[0])
    same("connected", connected, True)
    answers(session, options)
    errors(session)
    session.close()
    refused(options)
    failover(options)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
