#!/bin/bash
# Stand-in package: the upgrade script. It is written afresh and has, on purpose, the traps of the
# script it stands in for: it asks questions, needs bash and a terminal type, says nothing about the
# processes that still run, and its exit code means little.
set -e

function good() {
    echo -e "$1  \033[32m $2\033[0m"
}

function bad() {
    echo -e "$1  \033[31m $2\033[0m"
}

clear
echo "Tip: please shut down dolphindb process!"
echo "Tip: please back up metadata before upgrade!"

read -p "Are all processes stopped and is the metadata backed up? (y/n) " sure
if [ "$sure" != "y" ]; then
    echo "Stop the processes and back up the metadata first."
    exit
fi

echo -e "\033[36m 1: OnlineUpgrade dolphindb\033[0m"
echo -e "\033[36m 2: OfflineUpgrade dolphindb\033[0m"
echo -e "\033[36m 3: EXIT\033[0m"
read -p "Which of these? 1 is online, 2 is offline, 3 is quit: " choice
case $choice in
    1) online=yes ;;
    2) online=no ;;
    3)
        echo "you choose exit!"
        exit 1
        ;;
    *)
        echo "input Error! Place input{1|2|3}"
        exit
        ;;
esac

read -p "Please select upgrade version, e.g., 2.00.3 : " ver
name=DolphinDB_Linux64_V$ver.zip

if [ $online = yes ]; then
    # There is nothing to fetch a stand-in from: the name cannot be resolved, as without internet.
    wget -q https://packages.invalid/downloads/$name
    if [ $? -eq 0 ]; then
        good "DolphinDB package download succeeded!" DownLoadSuccess
    else
        bad "DolphinDB package download failed." DownLoadFailure
    fi
fi

if [ -e $name ]; then
    good "DolphinDB package uploaded successfully!" UpLoadSuccess
else
    bad "The DolphinDB package of this version is not in this folder." UpLoadFailure
    sleep 1
    exit
fi

unzip $name -d v$ver > /dev/null
if [ $? -eq 0 ]; then
    good "DolphinDB package unzipped successfully!" UnzipSuccess
else
    bad "The DolphinDB package could not be unzipped." UnzipFailure
    exit
fi

here=$(pwd)
cd $here/v$ver/server
rm -rf clusterDemo dolphindb.cfg dolphindb.lic startSingle.sh stopSingle.sh
cp -rf ./* $here/..
if [ $? -eq 0 ]; then
    cd $here
    rm -rf v$ver $name
    good "DolphinDB upgraded successfully!" UpgradeSuccess
else
    bad "Please check whether the package downloaded is correct." UpgradeFailure
fi
