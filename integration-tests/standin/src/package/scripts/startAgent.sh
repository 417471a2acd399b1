#!/bin/sh
# Stand-in package: starts this host's agent in the background. Run it in clusterDemo.
LD_LIBRARY_PATH="$(dirname "$PWD"):$LD_LIBRARY_PATH"
export LD_LIBRARY_PATH
nohup ./../dolphindb -console 0 -mode agent -home data -script dolphindb.dos -config config/agent.cfg -logFile log/agent.log > agent.nohup 2>&1 &
