#!/bin/sh
# Stand-in package: starts a single node in the background. Run it in the server folder.
LD_LIBRARY_PATH="$PWD:$LD_LIBRARY_PATH"
export LD_LIBRARY_PATH
nohup ./dolphindb -console 0 -mode single -config dolphindb.cfg > single.nohup 2>&1 &
