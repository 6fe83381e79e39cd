package lab

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"svcproxy/test/nstest"
)

var show = flag.Bool("show", false, "print each command of the page with all that it prints")

// kitEnv names a folder that has what the page's reader has: the page, the examples and the program.
const kitEnv = "SVCPROXY_LAB_KIT"

// TestThePage runs the page as whoever runs the tests.
func TestThePage(t *testing.T) {
	nstest.Require(t)
	kit, ok := os.LookupEnv(kitEnv)
	if !ok {
		kit = newKit(t)
	}
	page, err := os.ReadFile(filepath.Join(kit, "lab.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := Steps(string(page))
	if err != nil {
		t.Fatalf("docs/lab.md: %v", err)
	}
	if len(steps) == 0 {
		t.Fatal("docs/lab.md has no commands")
	}
	own := t.TempDir()
	if err := os.Symlink(filepath.Join(kit, "examples"), filepath.Join(own, "examples")); err != nil {
		t.Fatal(err)
	}
	s := newShell(t, own, environment(kit, own))
	for _, step := range steps {
		if step.Root && !cgroupsAreOurs(t) {
			continue
		}
		follow(t, s, step)
	}
}

// TestThePageAsAnOrdinaryUser runs it once more without any rights; in the short size one of the two does.
func TestThePageAsAnOrdinaryUser(t *testing.T) {
	if nstest.Sized(0, 1) == 0 {
		return
	}
	t.Setenv(kitEnv, newKit(t))
	nstest.Unprivileged(t, "^TestThePage$")
}

// follow runs one command of the page.
func follow(t *testing.T, s *shell, step Step) {
	t.Helper()
	got, code, err := s.run(step.Command)
	if *show {
		t.Logf("line %d: $ %s\n%s", step.Line, step.Command, got)
	}
	switch {
	case err != nil:
		t.Fatalf("docs/lab.md:%d: $ %s\n%s\n%v", step.Line, step.Command, got, err)
	case code != 0:
		t.Errorf("docs/lab.md:%d: $ %s\n%sexit code %d", step.Line, step.Command, got, code)
	case !Matches(step.Output, got):
		t.Errorf("docs/lab.md:%d: $ %s\nprinted:\n%sthe page says:\n%s", step.Line, step.Command, got, strings.Join(step.Output, "\n"))
	}
}

// newKit makes a kit that every user can read.
func newKit(t *testing.T) string {
	t.Helper()
	kit, err := os.MkdirTemp("", "svcproxy-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(kit) })
	build := exec.Command("go", "build", "-o", filepath.Join(kit, "bin")+"/", "svcproxy/cmd/svcproxy")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build svcproxy: %v\n%s", err, out)
	}
	page, err := os.ReadFile("../../docs/lab.md")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.Chmod(kit, 0o755),
		os.WriteFile(filepath.Join(kit, "lab.md"), page, 0o644),
		os.CopyFS(filepath.Join(kit, "examples"), os.DirFS("../../examples")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return kit
}

// environment has the program that the page is about in PATH, and sandboxes in the reader's own folder.
func environment(kit, own string) []string {
	env := []string{"PATH=" + kit + "/bin:" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "NO_COLOR=1", "LC_ALL=C", "TERM=dumb"}
	for _, name := range []string{"TMPDIR", "XTABLES_LOCKFILE"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, "HOME="+own, "XDG_RUNTIME_DIR="+own)
}

// cgroupsAreOurs tells whether limits can be set here: root can in the first user namespace alone.
func cgroupsAreOurs(t *testing.T) bool {
	t.Helper()
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(users)), " ") == "0 0 4294967295"
}
