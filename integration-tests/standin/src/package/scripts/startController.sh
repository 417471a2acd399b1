#!/bin/sh
# Stand-in package: starts this host's controller in the background. Run it in clusterDemo.
LD_LIBRARY_PATH="$(dirname "$PWD"):$LD_LIBRARY_PATH"
export LD_LIBRARY_PATH
nohup ./../dolphindb -console 0 -mode controller -home data -script dolphindb.dos -config config/controller.cfg -logFile log/controller.log -nodesFile config/cluster.nodes -clusterConfig config/cluster.cfg > controller.nohup 2>&1 &
