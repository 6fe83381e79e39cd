package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox/cgroup"
)

// ExitStatus is how a program ended.
type ExitStatus struct {
	// Code is the program's exit code, or 128 + Signal.
	Code int
	// Signal is what killed it, 0 if it exited.
	Signal syscall.Signal
}

// Process is a program in a container. Its methods may be used by several goroutines
// at once.
type Process struct {
	pid      int
	terminal *os.File
	done     chan struct{}
	status   ExitStatus // after done

	mu    sync.Mutex
	pidfd int // -1 once it has ended
}

// PID is the process's number as this program sees it.
func (p *Process) PID() int { return p.pid }

// Terminal is the master of the program's terminal, nil if it has none. The caller
// closes it; reading fails with EIO when nobody has the terminal open any more.
func (p *Process) Terminal() *os.File { return p.terminal }

// Done is closed when the program has ended and Status tells how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status waits until the program has ended and returns how.
func (p *Process) Status() ExitStatus {
	<-p.done
	return p.status
}

// Signal sends a signal. To a program that has ended it returns os.ErrProcessDone.
// The kernel keeps signals that PID 1 does not handle from it, except SIGKILL and
// SIGSTOP.
func (p *Process) Signal(sig os.Signal) error {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal process %d: %v is no signal of this system", p.pid, sig)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(p.pidfd, number, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// Resize sets the size of the program's terminal.
func (p *Process) Resize(size Window) error {
	if p.terminal == nil {
		return fmt.Errorf("process %d has no terminal", p.pid)
	}
	return SetWindow(p.terminal, size)
}

// duplicate is another descriptor of the process, for a message.
func (p *Process) duplicate() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return nil, os.ErrProcessDone
	}
	fd, err := unix.FcntlInt(uintptr(p.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "process"), nil
}

func (p *Process) finish(status syscall.WaitStatus) {
	p.status = ExitStatus{Code: exitCodeOf(status)}
	if status.Signaled() {
		p.status.Signal = status.Signal()
	}
	p.mu.Lock()
	unix.Close(p.pidfd)
	p.pidfd = -1
	p.mu.Unlock()
	close(p.done)
}

// launch is the start of one process by a stage.
type launch struct {
	order order
	enter *os.File // the second file of the order, with JoinPID
	stage stageOrder
	files []*os.File // of the stage's order
	group *cgroup.Group
	// began and ended, unless nil, are called when the process is known, before the
	// program runs, and when it has ended, before Done is closed.
	began func(pid int) error
	ended func()
}

// start has the pod's pause process start a stage and leads it until it has become the
// program.
func (l launch) start(p *pause) (*Process, error) {
	c, other, err := newChannel()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	orderFiles := []*os.File{other}
	if l.order.JoinPID {
		orderFiles = append(orderFiles, l.enter)
	}
	ended, err := p.fork(l.order, orderFiles...)
	other.Close()
	if err != nil {
		return nil, err
	}
	proc := &Process{pidfd: -1, done: make(chan struct{})}
	if err := l.lead(c, proc); err != nil {
		return nil, l.failed(c, proc, ended, err)
	}
	go func() {
		r := <-ended
		if l.ended != nil {
			l.ended()
		}
		proc.finish(syscall.WaitStatus(r.Status))
	}()
	return proc, nil
}

// lead talks to the stage until it executes the program.
func (l launch) lead(c *channel, proc *Process) error {
	if err := c.send(l.stage, l.files...); err != nil {
		return err
	}
	var r stageReport
	files, pid, err := c.receive(&r)
	if err != nil {
		return err
	}
	if r.Error != "" {
		return &StartError{r.Code, r.Error}
	}
	if l.stage.Terminal {
		if proc.terminal, err = terminalMaster(files); err != nil {
			return err
		}
	}
	proc.pid = pid
	if proc.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	if l.began != nil {
		if err := l.began(pid); err != nil {
			return fmt.Errorf("look at process %d: %w", pid, err)
		}
	}
	if l.group != nil {
		if err := l.group.Add(pid); err != nil {
			return err
		}
	}
	// From the moment it is in its cgroup, the kernel may kill it for lack of memory: the end of the channel then says
	// no more than that it has gone on, and its status the rest.
	if err := c.send(struct{}{}); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	_, _, err = c.receive(&r)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return nil
	case err != nil:
		return err
	}
	return &StartError{r.Code, r.Error}
}

// terminalMaster makes the master pollable, so that Close ends a Read.
func terminalMaster(files []*os.File) (*os.File, error) {
	if len(files) != 1 {
		closeFiles(files)
		return nil, fmt.Errorf("%d files came instead of a terminal", len(files))
	}
	defer files[0].Close()
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("take terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

// failed ends what has not become a program, and finds the best reason for that.
func (l launch) failed(c *channel, proc *Process, ended <-chan report, why error) error {
	// Without the other end a stage that still lives ends by itself; a process that
	// is stuck does not.
	c.Close()
	if proc.pidfd >= 0 {
		_ = unix.PidfdSendSignal(proc.pidfd, unix.SIGKILL, nil, 0)
	}
	r := <-ended
	if proc.pidfd >= 0 {
		unix.Close(proc.pidfd)
	}
	if proc.terminal != nil {
		proc.terminal.Close()
	}
	if l.ended != nil {
		l.ended()
	}
	switch {
	case errors.As(why, new(*StartError)):
		return why
	case r.Error != "":
		return errors.New(r.Error)
	}
	if status := syscall.WaitStatus(r.Status); status.Signaled() {
		return fmt.Errorf("killed (%v) before the program ran: %w", status.Signal(), why)
	}
	return why
}
