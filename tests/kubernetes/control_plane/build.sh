#!/usr/bin/env bash
# Builds a real Kubernetes control plane for the tests from the Go module proxy alone, and prints the folder of its
# programs: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, and the tools helm, kubeconform and
# kubectl. Existing programs are not built again.
#   build.sh [KUBERNETES_VERSION]
# It needs Go, 3 GB of memory and 4 GB of disk. The first time takes about 15 minutes of two cores, later calls none.
# The folder is $PARTITA_CONTROL_PLANE, or CACHE/partita/control-plane/VERSION; Go's own build cache stays where Go has it.
set -euo pipefail
version=${1:-1.37.2} etcd=v3.7.3 kwok=v0.8.0 helm=v4.3.1 kubeconform=v0.8.0 needs=1.26
cache=${XDG_CACHE_HOME:-$HOME/.cache}/partita/control-plane
at=$(realpath -m "${PARTITA_CONTROL_PLANE:-$cache/$version}")
programs=(etcd kwok kube-scheduler kube-controller-manager kube-apiserver kubectl kubeconform helm)

say() { echo "control plane: $*" >&2; }
fail() {
    say "$1"
    say "hint: $2"
    exit 1
}
missing() { for program in "${programs[@]}"; do [ -x "$at/bin/$program" ] || echo "$program"; done; }
done_if_there() {
    [ -n "$(missing)" ] || {
        echo "$at/bin"
        exit
    }
}

done_if_there
command -v go > /dev/null || fail "Go is not installed, and $at/bin has no $(missing | paste -sd' ')" \
    "install Go $needs or newer, or put the programs there"
found=$(go env GOVERSION) && found=${found#go}
[ "$(printf '%s\n' "$needs" "$found" | sort -V | head -1)" = "$needs" ] || fail "Go $found is too old for Kubernetes $version" \
    "install Go $needs or newer"

mkdir -p "$at"/{bin,kubernetes,kwok,etcd,helm} || fail "$at cannot be made" "set PARTITA_CONTROL_PLANE to a folder with 4 GB of room"
exec 9> "$at/lock"
flock -n 9 || {
    say "another build is under way in $at, waiting for it"
    flock 9 # two builds at a time need twice the memory
    done_if_there
}
export GOFLAGS="-buildvcs=false -trimpath -mod=mod" CGO_ENABLED=0 GOTOOLCHAIN=local
log=$at/build.log
: > "$log"

# Runs a command whose output goes to the log; says twice a minute that it is at work, since some take minutes.
logged() {
    local what=$1 begun=$SECONDS
    shift
    "$@" >> "$log" 2>&1 9>&- &
    local pid=$!
    trap 'kill "$pid" 2> /dev/null; exit 130' INT TERM
    while kill -0 "$pid" 2> /dev/null; do
        sleep 0.2
        if [ $((SECONDS - begun)) -ge $((${told:=0} + 30)) ]; then
            told=$((SECONDS - begun))
            say "  $what: $told s"
        fi
    done
    told=0
    wait "$pid"
}
# Downloads break now and then: each is tried four times. What was had already is not downloaded again.
download() {
    local what=$1 hint=$2 pause
    shift 2
    for pause in 5 20 60 no; do
        logged "downloading $what" "$@" && return
        say "$what cannot be downloaded: $(tail -1 "$log")"
        [ "$pause" = no ] && fail "given up; all of it is in $log" "$hint"
        say "  once more in $pause s"
        sleep "$pause"
    done
}

# A module that only requires the programs.
module() {
    local folder=$1
    shift
    { printf '//go:build tools\n\npackage tools\n\n'; printf 'import _ "%s"\n' "$@"; } > "$folder/tools.go"
    cd "$folder"
    say "modules of ${folder##*/} ($(date +%T))"
    [ -s go.sum ] || download "${folder##*/}" "is GOPROXY ($(go env GOPROXY)) reachable?" go mod tidy
}
# One at a time, since two linkers need twice the memory. An incomplete program is never taken for a complete one.
build() {
    local program=$1 path=$2 stamp=${3:-} begun=$SECONDS
    [ -x "$at/bin/$program" ] && return
    say "building $program, $(missing | wc -l) of ${#programs[@]} left ($(date +%T))"
    if ! logged "building $program" \
        nice -n 10 go build -p "${JOBS:-2}" -ldflags "-s -w $stamp" -o "$at/bin/.$program" "$path"; then
        rm -f "$at/bin/.$program"
        tail -5 "$log" >&2
        case $(tail -20 "$log") in
            *"signal: killed"*) fail "$program does not build: there is too little memory" "with JOBS=1 it needs less" ;;
            *"no space left"*) fail "$program does not build: the disk is full" "it takes 4 GB: $at, $(go env GOCACHE), $(go env GOMODCACHE)" ;;
            *) fail "$program does not build, see $log" "if a module is damaged: \`go clean -modcache\`; then try again" ;;
        esac
    fi
    mv "$at/bin/.$program" "$at/bin/$program"
    say "  $program is built, $((SECONDS - begun)) s"
}

# Other versions of the same libraries: a module for each.
printf 'module partita.test/etcd\ngo %s.0\nrequire go.etcd.io/etcd/server/v3 %s\n' "$needs" "$etcd" > "$at/etcd/go.mod"
printf 'module partita.test/kwok\ngo %s.0\nrequire sigs.k8s.io/kwok %s\n' "$needs" "$kwok" > "$at/kwok/go.mod"
printf 'module partita.test/helm\ngo %s.0\nrequire helm.sh/helm/v4 %s\nrequire github.com/yannh/kubeconform %s\n' \
    "$needs" "$helm" "$kubeconform" > "$at/helm/go.mod"
rm -f "$at"/{etcd,kwok,helm,kubernetes}/go.sum
say "Kubernetes $version into $at, about 15 minutes of two cores the first time"
module "$at/etcd" go.etcd.io/etcd/server/v3
build etcd go.etcd.io/etcd/server/v3
module "$at/kwok" sigs.k8s.io/kwok/cmd/kwok
build kwok sigs.k8s.io/kwok/cmd/kwok

# Kubernetes replaces its staging modules by folders of its own repository. A dependency's replacements do not count, so
# they are written here, with the version that goes with it: 1.37.2 has v0.37.2. Its own go.mod lists them.
cd "$at/kubernetes"
download "Kubernetes $version" "is GOPROXY ($(go env GOPROXY)) reachable, and is there such a version?" \
    go mod download "k8s.io/kubernetes@v$version"
theirs=$(go env GOMODCACHE)/cache/download/k8s.io/kubernetes/@v/v$version.mod
{
    echo "module partita.test/kubernetes"
    grep -E '^go ' "$theirs"
    echo "require k8s.io/kubernetes v$version"
    echo "replace ("
    grep -oE 'k8s\.io/[a-z-]+ => \./staging' "$theirs" | cut -d' ' -f1 | sort -u | sed "s|.*|& => & v0.${version#*.}|"
    echo ")"
} > go.mod
commands=k8s.io/kubernetes/cmd
module "$at/kubernetes" $commands/kube-apiserver $commands/kube-controller-manager $commands/kube-scheduler $commands/kubectl
# Without a version they say v0.0.0, and feature gates go by it.
base=k8s.io/component-base/version minor=${version#*.} minor=${minor%%.*}
stamp="-X $base.gitVersion=v$version -X $base.gitMajor=${version%%.*} -X $base.gitMinor=$minor -X $base.gitCommit=unknown -X $base.gitTreeState=clean"
for program in kube-scheduler kube-controller-manager kube-apiserver kubectl; do build $program $commands/$program "$stamp"; done
module "$at/helm" helm.sh/helm/v4/cmd/helm github.com/yannh/kubeconform/cmd/kubeconform
build kubeconform github.com/yannh/kubeconform/cmd/kubeconform
build helm helm.sh/helm/v4/cmd/helm
say "ready after $((SECONDS / 60)) min ($(date +%T))"
echo "$at/bin"
