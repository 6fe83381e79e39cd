package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// detour stands in for iptables-restore: it runs a shell script, says so, and then does not end.
type detour struct{ dir string }

// newDetour makes the stand-in for a data plane's programs of IPv4. In the script $real is the program itself.
func newDetour(t *testing.T, plane dataplane.Plane, script string) detour {
	t.Helper()
	d := detour{t.TempDir()}
	program := plane.Name + "-restore"
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\nreal=%s\n%s\necho $$ >%s.new\nmv %[3]s.new %[3]s\nexec sleep 1000\n", path, script, d.arrived())
	if err := os.WriteFile(filepath.Join(d.dir, program), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d detour) arrived() string { return filepath.Join(d.dir, "arrived") }

// env is the variable that leads a victim to the stand-in.
func (d detour) env() string { return "PATH=" + d.dir + ":" + os.Getenv("PATH") }

// wait waits until the script has run, and returns the process that stands in.
func (d detour) wait(t *testing.T) (pid int) {
	t.Helper()
	nstest.Eventually(t, tooLong, func() error {
		text, err := os.ReadFile(d.arrived())
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	return pid
}
