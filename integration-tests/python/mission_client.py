"""The upgrade document's own client, driven by a test.

`create` makes the document's database, `write` appends rows with high availability while nodes come
and go, `read` prints what is stored. The calls are those of the document; addresses, the range of
the partitions, the number of rows and the pause come from the command line.
"""

import argparse
import datetime
import json
import os
import random
import sys
import time
import warnings

import dolphindb as ddb
import pandas as pd

# The document's spelling of the appender's parameters is an old one.
warnings.simplefilter("ignore")

NAMES = ["Apple", "Microsoft", "Meta", "Google", "Amazon"]
CREATE = """
db = database("dfs://stock",VALUE,{first}..{last},,'TSDB')
tmp = table(1:0,[`time,`name,`id],[TIMESTAMP,SYMBOL,INT])
pt = db.createPartitionedTable(tmp,`stock,`time,,`name,ALL)
"""


def connect(sites):
    """Connects with high availability; the client only prints when it cannot."""
    host, port = sites[0].split(":")
    session = ddb.session()
    connected = session.connect(
        host=host,
        port=int(port),
        userid="admin",
        password="123456",
        highAvailability=True,
        highAvailabilitySites=sites,
    )
    if not connected:
        sys.exit(f"cannot connect to {sites}")
    return session


def create(session, options):
    session.run(CREATE.format(first=options.first, last=options.last))


def write(session, options):
    """Appends a row, prints its id and where it went, and goes on until it is told to stop."""
    appender = ddb.tableAppender(
        dbPath="dfs://stock", tableName="stock", ddbSession=session, action="fitColumnType"
    )
    row = 1
    while row <= options.rows and not os.path.exists(options.stop):
        now = datetime.datetime.now()
        name = random.sample(NAMES, 1)
        data = pd.DataFrame({"time": now, "name": name, "id": row})
        appender.append(data)
        print(f"row {row} {session.host}:{session.port}", flush=True)
        row += 1
        time.sleep(options.pause)


def read(session, _options):
    table = session.run('select * from loadTable("dfs://stock", "stock") order by id')
    print(json.dumps([int(row) for row in table["id"]]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["create", "write", "read"])
    parser.add_argument("--sites", required=True, type=lambda text: text.split(","))
    parser.add_argument("--first", default="2023.01.01", help="first day that has a partition")
    parser.add_argument("--last", default="2023.01.10", help="last day that has a partition")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two rows")
    parser.add_argument("--stop", default="", help="write no more once this file exists")
    options = parser.parse_args()
    session = connect(options.sites)
    {"create": create, "write": write, "read": read}[options.verb](session, options)
    session.close()


if __name__ == "__main__":
    main()
