package peer

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
	err := sandbox.Isolated()
	if errors.Is(err, sandbox.ErrNotIsolated) {
		if err = errors.Join(controlplane.Build(), controlplane.BuildKubeProxy()); err == nil {
			nstest.Main(m) // comes back here in namespaces
		}
	}
	code := 1
	if err == nil {
		var dir string
		if dir, err = smallMessages(); err == nil {
			code = m.Run()
		}
		if dir != "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
