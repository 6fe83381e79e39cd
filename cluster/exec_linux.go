package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

// hangUpTimeout is how long a program may go on after its caller has hung up.
const hangUpTimeout = 2 * time.Second

// program is what runs for a caller, in a pod or on the node.
type program interface {
	Terminal() *os.File
	Signal(os.Signal) error
	Done() <-chan struct{}
	end() ended
}

// start starts a program. files are its standard input, output and error, none of them for a terminal; they stay
// the caller's.
func (c *Cluster) start(r ExecRequest, files []*os.File) (program, error) {
	if len(r.Args) == 0 {
		return nil, errors.New("no command to run")
	}
	switch r.Place {
	case OnNode:
		return startHost(c.node.Netns, r, files)
	case Outside:
		return startHost(c.outside.Netns, r, files)
	case InPod:
	default:
		return nil, fmt.Errorf("no such place to run a program: %q", r.Place)
	}
	if err := c.known(r.Pod); err != nil {
		return nil, err
	}
	config := sandbox.ExecConfig{Args: r.Args, Terminal: r.Terminal, Size: sandbox.Window(r.Size)}
	if !r.Terminal {
		config.Stdin, config.Stdout, config.Stderr = files[0], files[1], files[2]
	}
	if !r.Stdin {
		config.Stdin = nil
	}
	p, err := c.kubelet.Exec(podName(r.Pod), r.Container, config)
	if err != nil {
		return nil, err
	}
	return podProgram{p}, nil
}

// podProgram is a program in a container.
type podProgram struct{ *sandbox.Process }

func (p podProgram) end() ended {
	s := p.Status()
	return ended{Code: s.Code, Signal: int(s.Signal)}
}

// hostProgram is a program of the machine.
type hostProgram struct {
	cmd      *exec.Cmd
	terminal *os.File
	done     chan struct{}
}

func startHost(ns *sandbox.Netns, r ExecRequest, files []*os.File) (program, error) {
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	if r.Args[0] == ownName {
		cmd.Path, cmd.Err = "/proc/self/exe", nil
	}
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	cmd.Dir, cmd.Env = r.Dir, slices.Concat(os.Environ(), r.Env)
	if info, err := os.Stat(cmd.Dir); err != nil || !info.IsDir() {
		cmd.Dir = "/" // a folder that only the caller's mounts have
	}
	p := &hostProgram{cmd: cmd, done: make(chan struct{})}
	if r.Terminal {
		master, slave, err := openTerminal(r.Size)
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		p.terminal, files = master, []*os.File{slave, slave, slave}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setctty: true}
	}
	if r.Stdin || r.Terminal {
		cmd.Stdin = files[0]
	}
	cmd.Stdout, cmd.Stderr = files[1], files[2]
	if err := ns.Start(cmd); err != nil {
		if p.terminal != nil {
			p.terminal.Close()
		}
		return nil, fmt.Errorf("start %s: %w", strings.Join(r.Args, " "), err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *hostProgram) Terminal() *os.File       { return p.terminal }
func (p *hostProgram) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }
func (p *hostProgram) Done() <-chan struct{}    { return p.done }

func (p *hostProgram) end() ended {
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return ended{Signal: int(status.Signal())}
	}
	return ended{Code: status.ExitStatus()}
}

// ownName is this program's own name, by which it can be run also where no PATH leads to it.
const ownName = "svcproxy"

// openTerminal makes a terminal of the machine's, for a program of the machine's.
func openTerminal(size WindowSize) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("find a terminal: %w", err)
	}
	if err := sandbox.SetWindow(master, sandbox.Window(size)); err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}

// exec answers a request to run a program: first that it runs, with its terminal if it has one, and last how it
// ended. When the client hangs up, the program is hung up on, and killed if it goes on.
func (s *services) exec(ctx context.Context, c *call) (any, error) {
	var r ExecRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	if !r.Terminal && len(c.files) != 3 {
		return nil, fmt.Errorf("a program has 3 standard streams, %d came", len(c.files))
	}
	ooms, _, _ := s.cluster.kubelet.OOMKills(podName(r.Pod), r.Container)
	p, err := s.cluster.start(r, c.files)
	if err != nil {
		if end := s.cluster.explain(r, ended{Signal: int(unix.SIGKILL)}, ooms); end.Note != "" {
			return nil, &killedError{end.Note} // before it could begin
		}
		return nil, err
	}
	// Else nobody would read the end of its output.
	closeAll(c.files)
	c.files = nil
	var terminal []*os.File
	if p.Terminal() != nil {
		terminal = []*os.File{p.Terminal()}
	}
	err = c.send(struct{}{}, terminal...)
	closeAll(terminal)
	if err != nil {
		return nil, errors.Join(err, hangUp(p))
	}
	for {
		select {
		case <-p.Done():
			return s.cluster.explain(r, p.end(), ooms), nil
		case o, ok := <-c.orders:
			if !ok {
				return nil, hangUp(p)
			}
			if o.Signal > 0 {
				_ = p.Signal(syscall.Signal(o.Signal))
			}
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), hangUp(p))
		}
	}
}

// killedError is that the kernel killed a program before it could begin.
type killedError struct{ message string }

func (e *killedError) Error() string { return e.message }

// explain adds to the end of a program in a pod that the kernel killed it for want of memory, if its container has seen
// more such kills than before its start.
func (c *Cluster) explain(r ExecRequest, end ended, before uint64) ended {
	if r.Place != InPod || end.exitCode() != 128+int(unix.SIGKILL) {
		return end
	}
	if now, message, err := c.kubelet.OOMKills(podName(r.Pod), r.Container); err == nil && now > before {
		end.Note = message
	}
	return end
}

// hangUp ends a program that nobody waits for any more.
func hangUp(p program) error {
	_ = p.Signal(unix.SIGHUP)
	timer := time.NewTimer(hangUpTimeout)
	defer timer.Stop()
	select {
	case <-p.Done():
		return nil
	case <-timer.C:
	}
	_ = p.Signal(unix.SIGKILL)
	<-p.Done()
	return nil
}
