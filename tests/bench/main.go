// The speed of cairnd beside containerd's own content service and its built-in store.
//
// One program in several roles: `bench run` starts the servers, runs the clients in turn and reports;
// `bench client` is one measured client process; `bench goserver` is containerd's contentserver over
// its local store, on a unix socket. tools/bench builds it and is what people call.
package main

import (
	"fmt"
	"os"
)

func main() {
	roles := map[string]func([]string) error{
		"run":      runMain,
		"client":   clientMain,
		"goserver": goserverMain,
	}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench run|client|goserver [OPTIONS]")
		os.Exit(2)
	}
	if err := roles[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
