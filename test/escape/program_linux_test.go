package escape

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/sandbox/confine"
)

// selfAttack looks at what the attacker is itself.
var selfAttack = register("self", func(a *attacker) {
	status, err := os.ReadFile("/proc/self/status")
	a.holds("read its status", err == nil, err)
	for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		a.holds("be more than "+line, strings.Contains(string(status), line+"\n"), string(status))
	}
	mapped, err := os.ReadFile("/proc/self/uid_map")
	a.Facts["uid_map"] = strings.Join(strings.Fields(string(mapped)), " ")
	a.holds("read its users", err == nil, err)
	for _, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"} {
		err := os.WriteFile(name, []byte("0 0 4294967295"), 0)
		a.holds("write "+name, err != nil, "it succeeded")
	}
	environment := os.Environ()
	want := []string{"GORACE=", "PATH=", markerEnv + "=", secretEnv + "="}
	a.holds("find more in its environment", len(environment) == len(want) && !slices.ContainsFunc(environment, func(v string) bool {
		return !slices.ContainsFunc(want, func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	}), environment)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	a.holds("find the host's folders among its mounts", err == nil && !strings.Contains(string(mounts), "/dev/vda"), string(mounts))
	_, err = os.OpenFile("/dev/tty", os.O_RDWR, 0)
	a.refused("open the caller's terminal", err, unix.ENXIO)
	a.hidden("look around", "/")
})

func TestAttackerIsWhatItsProfileSays(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	found := p.holds(t, selfAttack)
	want := fmt.Sprintf("0 %d 65536", hostUsers.Base)
	if !isRoot(t) {
		want = "0 0 1"
	}
	if found.Facts["uid_map"] != want {
		t.Errorf("users are mapped as %q, want %q", found.Facts["uid_map"], want)
	}
}

// terminalAttack types into its terminal, as if it were the one who called.
var terminalAttack = register("terminal", func(a *attacker) {
	var own, devpts unix.Stat_t
	err := unix.Fstat(0, &own)
	if err == nil {
		err = unix.Stat("/dev/pts", &devpts)
	}
	a.holds("have another terminal than the container's", err == nil && own.Dev == devpts.Dev, err)
	a.holds("see other terminals", slices.Equal(names("/dev/pts"), []string{"0", "ptmx"}), names("/dev/pts"))
	// Where the kernel lets it, that is input for the attacker's own programs.
	c := byte('#')
	_ = unix.IoctlSetPointerInt(0, unix.TIOCSTI, int(c))
	a.refused("take over the console", unix.IoctlSetInt(0, unix.TIOCCONS, 0), unix.EPERM)
})

func TestAttackerHasATerminalOfItsOwn(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	cfg := p.config(terminalAttack)
	cfg.Terminal = true
	container, err := p.StartContainer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer container.Close()
	text, _ := io.ReadAll(container.Terminal()) // EIO at its end
	if status := container.Status(); status.Code != 0 || strings.Contains(string(text), `"Held":false`) || !strings.Contains(string(text), `"Held":true`) {
		t.Errorf("%+v: %s", status, text)
	}
}

// Who has a terminal open can type into it, so the caller's must not get in.
func TestAttackerIsNotGivenTheCallersTerminal(t *testing.T) {
	t.Parallel()
	p := newPrison(t, sandbox.PauseConfig{})
	if err := unix.Mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount("/dev/pts", unix.MNT_DETACH) }()
	master, err := os.OpenFile("/dev/pts/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	callers, err := os.OpenFile("/dev/pts/0", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer callers.Close()
	for name, give := range map[string]func(*sandbox.ContainerConfig){
		"stdin":  func(cfg *sandbox.ContainerConfig) { cfg.Stdin = callers },
		"stdout": func(cfg *sandbox.ContainerConfig) { cfg.Stdout = callers },
		"stderr": func(cfg *sandbox.ContainerConfig) { cfg.Stderr = callers },
	} {
		if _, err := p.tryStart(t, selfAttack, give); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
	}
}

// userAttack says who it is.
var userAttack = register("user", func(a *attacker) {
	a.Facts["user"] = strconv.Itoa(os.Geteuid())
	a.holds("be somebody", true, "")
})

func TestAttackerGainsNothingBySetuid(t *testing.T) {
	t.Parallel()
	if !isRoot(t) {
		return // an ordinary user's pod has but one user
	}
	p := newPrison(t, sandbox.PauseConfig{})
	setuid := layer(t, func(dir string) error {
		content, err := os.ReadFile(workshop + "/" + attackerCommand)
		if err != nil {
			return err
		}
		program := dir + "/" + attackerCommand
		if err := os.WriteFile(program, content, 0o755); err != nil {
			return err
		}
		if err := os.Chown(program, hostUsers.Base, hostUsers.Base); err != nil {
			return err
		}
		return os.Chmod(program, 0o755|os.ModeSetuid)
	})
	for escalation, want := range map[bool]string{false: "1000", true: "0"} {
		found := p.holds(t, userAttack, setuid, func(cfg *sandbox.ContainerConfig) {
			cfg.Profile = confine.Profile{UID: 1000, GID: 1000, Capabilities: confine.DefaultCapabilities(), AllowPrivilegeEscalation: escalation}
			cfg.Env = append([]string{"PATH=/extra"}, cfg.Env[1:]...)
		})
		if found.Facts["user"] != want {
			t.Errorf("privilege escalation %v: the program runs as %s, want %s", escalation, found.Facts["user"], want)
		}
	}
}
