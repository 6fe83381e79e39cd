package controlplane

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// With -peer the tests hold the tests to account: what they ask of svcproxy, kube-proxy must do too.
// It wants to be run as root.
var peer = flag.Bool("peer", false, "test kube-proxy in the place of svcproxy")

func TestMain(m *testing.M) {
	sandbox.Init()
	flag.Parse()
	if err := sandbox.Isolated(); errors.Is(err, sandbox.ErrNotIsolated) {
		err := Build()
		if err == nil && *peer {
			err = BuildKubeProxy()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	nstest.Main(m)
}
