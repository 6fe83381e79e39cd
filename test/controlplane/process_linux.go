package controlplane

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// Process is a program running inside a network namespace, with its output in a file that a failed
// test shows.
type Process struct {
	name   string
	cmd    *exec.Cmd
	output string
	ended  chan struct{} // closed when the process is gone and err is set
	err    error
}

// Start runs a program of the folder inside ns until the test ends or Stop is called.
func Start(t testing.TB, ns *sandbox.Netns, program string, args ...string) *Process {
	t.Helper()
	name := filepath.Base(program)
	output, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	p := &Process{name: name, cmd: exec.Command(program, args...), output: output.Name(), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = output, output
	if err := ns.Start(p.cmd); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.end(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("%s ended (%v); its last output:\n%s", name, p.err, p.tail())
		}
	})
	return p
}

// Stop asks the process to end, as a supervisor does, and fails the test unless it ends with success.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if p.end(syscall.SIGTERM); p.err != nil {
		t.Fatalf("stop %s: %v\n%s", p.name, p.err, p.tail())
	}
}

// Kill ends the process without asking.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Await polls check until it returns nil. It fails the test after the time-out, and at once when one
// of the processes that check waits for has ended.
func Await(t testing.TB, timeout time.Duration, check func() error, processes ...*Process) {
	t.Helper()
	nstest.Eventually(t, timeout, func() error {
		for _, p := range processes {
			if err := p.Running(); err != nil {
				t.Fatal(err)
			}
		}
		return check()
	})
}

// Running is nil while the process runs, else an error with its last output.
func (p *Process) Running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.err, p.tail())
	default:
		return nil
	}
}

func (p *Process) end(s syscall.Signal) {
	const patience = 10 * time.Second
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *Process) tail() string {
	const lines = 20
	data, err := os.ReadFile(p.output)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
