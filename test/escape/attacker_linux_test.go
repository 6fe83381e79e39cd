package escape

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

// attackerCommand is the name under which this test binary, in a pod, is the attacker.
const attackerCommand = "escape-attacker"

// attacks are what the attacker can be told to try, by name.
var attacks = map[string]func(*attacker){}

func register(name string, attack func(*attacker)) string {
	attacks[name] = attack
	return name
}

// nothingCommand is this binary as a program that does nothing.
const nothingCommand = "escape-nothing"

func init() {
	reexec.Register(attackerCommand, attack)
	reexec.Register(nothingCommand, func() { syscall.Exit(0) })
}

// attempt is one thing that the attacker tried.
type attempt struct {
	Try string
	// Held tells that it was refused as it must be.
	Held bool
	// Got is what came of it, for people.
	Got string
}

// attacker is the process in the pod that tries to get out.
type attacker struct {
	Attempts []attempt
	// Facts are what the attacker learned, for attacks that the test judges.
	Facts map[string]string
	// marker is the path of a file of the host, secret what is in it.
	marker, secret string
}

// Environment of the attacker.
const (
	markerEnv = "HOST_MARKER"
	secretEnv = "HOST_SECRET"
)

// attack is the attacker's main. Its last argument names the attack; what it found goes
// to standard output.
func attack() {
	a := &attacker{Facts: map[string]string{}, marker: os.Getenv(markerEnv), secret: os.Getenv(secretEnv)}
	a.Facts["files"] = strings.Join(openFiles(), " ")
	if os.Geteuid() == 0 {
		a.folder("")
	}
	name := os.Args[len(os.Args)-1]
	if attack, ok := attacks[name]; ok {
		attack(a)
	} else {
		a.Attempts = append(a.Attempts, attempt{Try: "attack " + name, Got: "there is no such attack"})
	}
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

// openFiles are the descriptors that came with the process, besides standard streams.
func openFiles() []string {
	var found []string
	for fd := 3; fd < 1024; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			continue
		}
		target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" { // the Go runtime's own
			found = append(found, fmt.Sprintf("%d=%s", fd, target))
		}
	}
	return found
}

// refused notes an attempt that must fail with one of the errors.
func (a *attacker) refused(try string, err error, want ...syscall.Errno) {
	var errno syscall.Errno
	errors.As(err, &errno)
	got := "it succeeded"
	if err != nil {
		got = err.Error()
	}
	a.Attempts = append(a.Attempts, attempt{try, err != nil && slices.Contains(want, errno), got})
}

// holds notes an attempt whose result is judged otherwise.
func (a *attacker) holds(try string, held bool, got any) {
	a.Attempts = append(a.Attempts, attempt{try, held, fmt.Sprint(got)})
}

// call is a system call as the kernel takes it.
func call(number uintptr, args ...uintptr) error {
	args = append(args, make([]uintptr, 6)...)
	if _, _, errno := unix.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
		return errno
	}
	return nil
}

// inThread calls it on a thread that is thrown away.
func inThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// seesHost tells whether the file that only the host has can be read below the folder,
// by its path there or by climbing.
func (a *attacker) seesHost(root string) bool {
	for _, way := range []string{"", "../", strings.Repeat("../", 20)} {
		content, err := os.ReadFile(root + "/" + way + strings.TrimPrefix(a.marker, "/"))
		if err == nil && string(content) == a.secret {
			return true
		}
	}
	return false
}

// hidden notes that the host cannot be seen through the folder.
func (a *attacker) hidden(try, root string) {
	if a.marker == "" || a.secret == "" {
		a.holds(try, false, "no marker to look for")
		return
	}
	a.holds(try, !a.seesHost(root), "host's file "+a.marker)
}

// folder makes an empty folder in the pod.
func (a *attacker) folder(name string) string {
	dir := filepath.Join("/attack", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		a.holds("make folder "+dir, false, err)
	}
	return dir
}

// running waits until the test closes standard input, and does the thing meanwhile.
func (a *attacker) running(thing func()) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return
		default:
			thing()
		}
	}
}
