package coredns

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/test/controlplane"
	"svcproxy/test/nstest"
)

// Programs are built before the tests leave the machine's network, as the Go command may need it.
func TestMain(m *testing.M) {
	sandbox.Init()
	if err := sandbox.Isolated(); errors.Is(err, sandbox.ErrNotIsolated) && nstest.Sized(0, 1) == 1 {
		if err := errors.Join(controlplane.Build(), controlplane.BuildCoreDNS()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	nstest.Main(m)
}
