package controlplane

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	if err := sandbox.Isolated(); errors.Is(err, sandbox.ErrNotIsolated) {
		if err := Build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	nstest.Main(m)
}
