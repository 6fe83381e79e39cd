package confine_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox/confine"
	"svcproxy/test/nstest"
)

func TestOrdinaryUserCanRunTheseTests(t *testing.T) {
	nstest.Unprivileged(t, "^(TestRoot.*|TestProgram.*|TestThread.*|TestOneMappedUser.*)$")
}

// masks are sets of capabilities as /proc/PID/status writes them.
func masks(bounding, permitted string) map[string]string {
	const none = "0000000000000000"
	return map[string]string{"CapBnd": bounding, "CapPrm": permitted, "CapEff": permitted, "CapInh": none, "CapAmb": none}
}

func maskOf(capabilities ...capability.Cap) string {
	var mask uint64
	for _, c := range capabilities {
		mask |= 1 << c
	}
	return fmt.Sprintf("%016x", mask)
}

// expect requires the fields of every thread of the program.
func expect(t *testing.T, r report, want map[string]string) {
	t.Helper()
	for _, thread := range r.Threads {
		for name, value := range want {
			if got := strings.Join(strings.Fields(thread[name]), " "); got != value {
				t.Errorf("thread %s: %s is %q, want %q", thread["Pid"], name, got, value)
			}
		}
	}
}

func TestRootHasTheCapabilitiesOfItsProfile(t *testing.T) {
	supported, err := capability.ListSupported()
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range supported {
		if i%nstest.Sized(5, 1) != 0 {
			continue
		}
		name := "CAP_" + strings.ToUpper(c.String())
		expect(t, program(t, oneUser, confine.Profile{Capabilities: []string{name}}), masks(maskOf(c), maskOf(c)))
	}
	expect(t, program(t, oneUser, confine.Profile{}), masks(maskOf(), maskOf()))
	// 0xa80425fb is what grep Cap /proc/1/status shows in a container of docker or containerd.
	expect(t, program(t, oneUser, confine.Profile{Capabilities: confine.DefaultCapabilities()}),
		masks("00000000a80425fb", "00000000a80425fb"))
}

func TestOrdinaryUserHasNoCapabilityInEffect(t *testing.T) {
	if !canMapARange(t) {
		return
	}
	r := program(t, aRange, confine.Profile{UID: 1000, GID: 2000, Groups: []int{3000, 4000}, Capabilities: confine.DefaultCapabilities()})
	want := masks("00000000a80425fb", maskOf())
	want["Uid"], want["Gid"], want["Groups"] = "1000 1000 1000 1000", "2000 2000 2000 2000", "3000 4000"
	want["NoNewPrivs"], want["Seccomp"] = "1", "2"
	expect(t, r, want)
}

func TestGroupsOfTheCallerAreGone(t *testing.T) {
	if !canMapARange(t) {
		return
	}
	if err := syscall.Setgroups([]int{0, 5000}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setgroups(nil) }()
	expect(t, program(t, aRange, confine.Profile{}), map[string]string{"Groups": ""})
	// The same where they cannot be changed: the program keeps them, under no number.
	expect(t, program(t, oneUser, confine.Profile{}), map[string]string{"Groups": "0 65534", "Uid": "0 0 0 0"})
}

func TestOneMappedUserIsRootOrAnError(t *testing.T) {
	expect(t, program(t, oneUser, confine.Profile{Capabilities: confine.DefaultCapabilities()}),
		map[string]string{"Uid": "0 0 0 0", "Gid": "0 0 0 0"})
	for want, profile := range map[string]confine.Profile{
		"UID: 1000: not mapped": {UID: 1000},
		"GID: 1000: not mapped": {GID: 1000},
		"Groups: [0]":           {Groups: []int{0}},
	} {
		if _, err := runProgram(t, oneUser, profile); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", profile, err, want)
		}
	}
}

func TestGroupThatIsNotMappedIsAnError(t *testing.T) {
	if !canMapARange(t) {
		return
	}
	const want = "Groups: [5 70000]: not mapped"
	if _, err := runProgram(t, aRange, confine.Profile{Groups: []int{5, 70000}}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want an error with %q", err, want)
	}
}

func TestProgramIsRefusedSystemCalls(t *testing.T) {
	refused := map[string]syscall.Errno{
		"unshare": unix.EPERM, "mount": unix.EPERM, "keyctl": unix.EPERM, "io_uring_setup": unix.EPERM, "AF_VSOCK": unix.EPERM,
		"clone3": unix.ENOSYS, "newer": unix.ENOSYS, "getpid": 0, "AF_INET": unix.EINVAL,
	}
	for _, escalation := range []bool{false, true} {
		r := program(t, oneUser, confine.Profile{Capabilities: confine.DefaultCapabilities(), AllowPrivilegeEscalation: escalation})
		for call, want := range refused {
			if got, ok := r.Attempts[call]; !ok || got != want {
				t.Errorf("privilege escalation %v: %s: %v, want %v", escalation, call, got, want)
			}
		}
	}
	// Without the filter the kernel itself answers, and knows each of them.
	r := program(t, oneUser, confine.Profile{Capabilities: []string{"CAP_SYS_ADMIN"}, Seccomp: confine.Unconfined})
	for _, call := range []string{"unshare", "mount", "keyctl", "clone3", "AF_VSOCK"} {
		if got := r.Attempts[call]; got == refused[call] {
			t.Errorf("unconfined: %s: %v", call, got)
		}
	}
}

func TestProgramSaysHowItIsConfined(t *testing.T) {
	for _, test := range []struct {
		profile             confine.Profile
		noNewPrivs, seccomp string
	}{
		{confine.Profile{}, "1", "2"},
		{confine.Profile{AllowPrivilegeEscalation: true}, "0", "2"},
		{confine.Profile{Seccomp: confine.Unconfined}, "1", "0"},
		{confine.Profile{Seccomp: confine.Unconfined, AllowPrivilegeEscalation: true}, "0", "0"},
	} {
		r := program(t, oneUser, test.profile)
		expect(t, r, map[string]string{"NoNewPrivs": test.noNewPrivs, "Seccomp": test.seccomp})
		if r.Dumpable != 1 {
			t.Errorf("%+v: dumpable is %d in the new program", test.profile, r.Dumpable)
		}
	}
}

// Between Apply and exec the process's other threads have all that it came with, so
// that nobody may look into it or trace it.
func TestThreadIsConfinedAloneUntilExec(t *testing.T) {
	r, err := run(t, oneUser, threadsCommand, encode(t, confine.Profile{}))
	if err != nil {
		t.Fatal(err)
	}
	confined := slices.DeleteFunc(slices.Clone(r.Threads), func(thread map[string]string) bool { return thread["Seccomp"] != "2" })
	if len(confined) != 1 || len(r.Threads) < 2 {
		t.Fatalf("%d of %d threads have the filter, want one of several", len(confined), len(r.Threads))
	}
	for _, thread := range r.Threads {
		if bare := thread["CapEff"] == maskOf(); bare != (thread["Pid"] == confined[0]["Pid"]) {
			t.Errorf("thread %s: CapEff %s, the confined one is %s", thread["Pid"], thread["CapEff"], confined[0]["Pid"])
		}
	}
	if r.Dumpable != 0 {
		t.Errorf("dumpable is %d", r.Dumpable)
	}
}

func TestSetuidProgramGivesNoPrivilege(t *testing.T) {
	if !canMapARange(t) {
		return
	}
	program := setuidCopy(t, 1000)
	for escalation, want := range map[bool]int{false: 0, true: 1000} {
		profile := confine.Profile{Capabilities: confine.DefaultCapabilities(), AllowPrivilegeEscalation: escalation}
		r, err := run(t, aRange, confinedCommand, encode(t, profile), program, reportCommand)
		if err != nil {
			t.Fatal(err)
		}
		if r.EUID != want {
			t.Errorf("privilege escalation %v: effective user %d, want %d", escalation, r.EUID, want)
		}
	}
}

// setuidCopy is this binary, which runs as the user whoever starts it.
func setuidCopy(t *testing.T, uid int) string {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	path := filepath.Join(t.TempDir(), "setuid")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(file, self); err != nil {
		t.Fatal(err)
	}
	if err := file.Chown(uid, 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Chmod(0o755 | os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckNamesTheField(t *testing.T) {
	for want, profile := range map[string]confine.Profile{
		"UID: -1":                  {UID: -1},
		"GID: 4294967295":          {GID: 1<<32 - 1},
		"Groups: -5":               {Groups: []int{1, -5}},
		`no "CAP_NONSENSE"`:        {Capabilities: []string{"CAP_CHOWN", "CAP_NONSENSE"}},
		`no "chown"`:               {Capabilities: []string{"chown"}},
		"Seccomp: unknown value 7": {Seccomp: 7},
	} {
		for name, check := range map[string]func() error{"Check": profile.Check, "Apply": profile.Apply} {
			if err := check(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %+v: %v, want an error with %q", name, profile, err, want)
			}
		}
	}
	if err := (confine.Profile{UID: 1000, GID: 1000, Groups: []int{5}, Capabilities: confine.DefaultCapabilities()}).Check(); err != nil {
		t.Error(err)
	}
}
