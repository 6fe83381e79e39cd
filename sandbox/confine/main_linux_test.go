package confine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox/confine"
	"svcproxy/test/nstest"
)

// The test binary is also the programs that tests start.
const (
	confinedCommand = "confine-test-apply"  // PROFILE PROGRAM NAME…: applies the profile and executes the program under the name
	threadsCommand  = "confine-test-thread" // PROFILE: applies it and reports as it is, without exec
	reportCommand   = "confine-test-report" // reports what it may
)

func init() {
	reexec.Register(confinedCommand, func() { helper(confined) })
	reexec.Register(threadsCommand, func() { helper(thread) })
	reexec.Register(reportCommand, func() { helper(func() error { return tell(true) }) })
}

func TestMain(m *testing.M) { nstest.Main(m) }

func helper(f func() error) {
	if err := f(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

func confined() error {
	runtime.LockOSThread()
	if err := apply(); err != nil {
		return err
	}
	return syscall.Exec(os.Args[2], os.Args[3:], os.Environ())
}

func thread() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := apply()
		if err == nil {
			err = tell(false)
		}
		done <- err
	}()
	return <-done
}

func apply() error {
	var profile confine.Profile
	if err := json.Unmarshal([]byte(os.Args[1]), &profile); err != nil {
		return err
	}
	return profile.Apply()
}

// report is what a program says of itself.
type report struct {
	// Threads are the fields of /proc/self/task/*/status.
	Threads []map[string]string
	// Attempts are system calls by name with the error of each.
	Attempts map[string]syscall.Errno
	Dumpable int
	EUID     int
}

func tell(attempt bool) error {
	r := report{EUID: os.Geteuid()}
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		r.Threads = append(r.Threads, fields)
	}
	if r.Dumpable, err = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	if attempt {
		r.Attempts = attempts()
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// attempts are calls that do no harm where they succeed: invalid but for a filter.
func attempts() map[string]syscall.Errno {
	errnoOf := func(number uintptr, args ...uintptr) syscall.Errno {
		args = append(args, 0, 0, 0)
		_, _, errno := syscall.RawSyscall(number, args[0], args[1], args[2])
		return errno
	}
	return map[string]syscall.Errno{
		"getpid":         errnoOf(unix.SYS_GETPID),
		"unshare":        errnoOf(unix.SYS_UNSHARE, 0),
		"mount":          errnoOf(unix.SYS_MOUNT),
		"keyctl":         errnoOf(unix.SYS_KEYCTL, ^uintptr(0)),
		"clone3":         errnoOf(unix.SYS_CLONE3),
		"io_uring_setup": errnoOf(unix.SYS_IO_URING_SETUP),
		"AF_VSOCK":       errnoOf(unix.SYS_SOCKET, unix.AF_VSOCK, ^uintptr(0)),
		"AF_INET":        errnoOf(unix.SYS_SOCKET, unix.AF_INET, ^uintptr(0)),
		"newer":          errnoOf(1000),
	}
}

// users is how many users a namespace maps.
type users int

const (
	oneUser users = 1     // as of an ordinary user: himself, as 0; groups are fixed
	aRange  users = 65536 // as of root
)

// canMapARange tells whether the tests run as root of the machine. What an ordinary
// user, who cannot, gets instead is TestOneMappedUserIsRootOrAnError.
func canMapARange(t *testing.T) bool {
	t.Helper()
	mapped, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(mapped))
	return len(fields) == 3 && len(fields[2]) >= len("65536")
}

// run runs a program of this binary in a user namespace of its own, as in a pod, and
// returns its report.
func run(t *testing.T, size users, name string, args ...string) (report, error) {
	t.Helper()
	nstest.Require(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Args[0] = name
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER,
		UidMappings:                []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: int(size)}},
		GidMappings:                []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: int(size)}},
		GidMappingsEnableSetgroups: size == aRange,
		Credential:                 &syscall.Credential{NoSetGroups: true},
	}
	var r report
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || len(r.Threads) == 0 {
		return r, errors.Join(err, fmt.Errorf("no report: %s", stdout.String()))
	}
	return r, nil
}

// program is the report of a program started with the profile.
func program(t *testing.T, size users, profile confine.Profile) report {
	t.Helper()
	r, err := runProgram(t, size, profile)
	if err != nil {
		t.Fatalf("%+v: %v", profile, err)
	}
	return r
}

func runProgram(t *testing.T, size users, profile confine.Profile) (report, error) {
	t.Helper()
	return run(t, size, confinedCommand, encode(t, profile), "/proc/self/exe", reportCommand)
}

func encode(t *testing.T, profile confine.Profile) string {
	t.Helper()
	text, err := json.Marshal(profile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
