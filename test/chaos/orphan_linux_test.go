package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// TestNoRestoreOutlivesItsProxy kills svcproxy while an iptables-restore of its runs. If that went on, it
// would write old rules over those of the next start.
func TestNoRestoreOutlivesItsProxy(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	started := filepath.Join(dir, "started")
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, program := range []string{"-legacy", "-legacy-save"} {
			script(t, dir, family+program, "exec "+realPath(t, family+program)+` "$@"`)
		}
		script(t, dir, family+"-legacy-restore", fmt.Sprintf("echo $$ >%s.new; mv %[1]s.new %[1]s; exec sleep 1000", started))
	}
	v := w.start(t, dataplane.IPTablesLegacy, fault{}, "PATH="+dir+":"+os.Getenv("PATH"))
	v.send(t, newChurn(1, 5, w.servers).all())
	var pid int
	nstest.Eventually(t, tooLong, func() error {
		text, err := os.ReadFile(started)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	v.kill()
	nstest.Eventually(t, 5*time.Second, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("iptables-restore outlived the proxy that started it: %v", err)
		}
		return nil
	})
}

func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func realPath(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
