#!/bin/sh
# Stand-in package: asks everything of this user whose ps line has the word to end, and does not wait.
ps -e -ww -o ruser:32= -o pid= -o ppid= -o args= | grep dolphindb | grep -v grep | grep $USER | awk '{print $2}' | xargs kill -TERM
