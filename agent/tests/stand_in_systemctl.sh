#!/bin/sh
# Stands in for the service manager's command in tests. A unit is a file of properties in `units`
# beside this script; `Local=yes` marks one whose file lies where masking cannot work. A unit with
# `ExecStart=` has that run in the background when it is started.
set -eu
here=$(dirname "$0")
verb=$1
shift
for unit; do :; done
file=$here/units/$unit
echo "$verb $unit" >> "$here/calls"
if [ ! -e "$file" ]; then
    if [ "$verb" = show ]; then
        printf 'Id=%s\nLoadState=not-found\nActiveState=inactive\nMainPID=0\n' "$unit"
        exit 0
    fi
    echo "Unit $unit not found." >&2
    exit 5
fi

get() { sed -n "s/^$1=//p" "$file"; }
set_to() {
    grep -v "^$1=" "$file" > "$file.new" || :
    echo "$1=$2" >> "$file.new"
    mv "$file.new" "$file"
}

case $verb in
    show) echo "Id=$unit"; cat "$file" ;;
    mask)
        if [ "$(get Local)" = yes ]; then
            echo "Failed to mask unit: File '/etc/systemd/system/$unit' already exists." >&2
            exit 1
        fi
        set_to WasFileState "$(get UnitFileState)"
        set_to UnitFileState masked
        set_to LoadState masked
        ;;
    unmask)
        set_to UnitFileState "$(get WasFileState)"
        set_to LoadState loaded
        ;;
    enable) set_to UnitFileState enabled ;;
    disable) set_to UnitFileState disabled ;;
    stop) set_to ActiveState inactive; set_to MainPID 0 ;;
    reset-failed) ;;
    start)
        if [ "$(get LoadState)" = masked ]; then
            echo "Failed to start $unit: Unit $unit is masked." >&2
            exit 1
        fi
        start=$(get ExecStart)
        if [ -n "$start" ]; then
            sh -c "$start" > /dev/null 2>&1 < /dev/null &
        fi
        set_to ActiveState active
        ;;
    *) echo "Unknown command verb $verb." >&2; exit 1 ;;
esac
