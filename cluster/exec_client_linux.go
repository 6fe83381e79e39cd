package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Streams are a program's, as its caller has them.
type Streams struct {
	In       io.Reader // nil is nothing to read
	Out, Err io.Writer
	// Signals are passed on to the program, if not nil.
	Signals <-chan os.Signal
	// Terminal is the caller's own, for an ExecRequest that asks for one: it is set raw meanwhile, and its size
	// is followed. Nil where the caller has none: the program's terminal then is read and written as it is.
	Terminal *os.File
}

// Exec runs a program and returns its exit code, 128 + the signal that ended it. The program gets pipes or a
// terminal of its own, never files of the caller. It is killed when ctx ends or this program does.
func (c *Client) Exec(ctx context.Context, r ExecRequest, s Streams) (int, error) {
	r.Stdin = s.In != nil
	if r.Terminal {
		if s.Terminal != nil {
			r.Size = sizeOf(s.Terminal)
		}
		return c.execTerminal(ctx, r, s)
	}
	return c.execPipes(ctx, methodExec, r, s)
}

// Attach connects to a container's own program until that ends, and returns its exit code. The request's Timeout bounds
// the wait for its start. If the container has a terminal, the request must say so.
func (c *Client) Attach(ctx context.Context, r ExecRequest, s Streams) (int, error) {
	r.Place, r.Stdin = InPod, s.In != nil
	return c.execPipes(ctx, methodAttach, r, s)
}

// execPipes runs a program whose standard streams are pipes that are made for it.
func (c *Client) execPipes(ctx context.Context, method string, r ExecRequest, s Streams) (int, error) {
	var theirs, ours []*os.File
	defer func() { closeAll(theirs); closeAll(ours) }()
	for i := range 3 {
		read, write, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		if i == 0 {
			read, write = write, read
		}
		ours, theirs = append(ours, read), append(theirs, write)
	}
	run, err := c.beginExec(ctx, method, r, theirs...)
	if err != nil {
		return 0, err
	}
	defer run.Close()
	closeAll(theirs)
	if r.Terminal && s.Terminal != nil {
		restore, err := follow(s.Terminal, run.resize)
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	if s.In == nil {
		ours[0].Close()
	} else {
		go func() {
			_, _ = io.Copy(ours[0], s.In)
			ours[0].Close()
		}()
	}
	out, problems := newDrain(ours[1], s.Out), newDrain(ours[2], s.Err)
	end, err := run.await(ctx, s.Signals)
	err = errors.Join(err, out.finish(), problems.finish())
	s.note(end)
	return end.exitCode(), err
}

// execTerminal runs a program on a terminal of the pod, whose master comes with the first reply.
func (c *Client) execTerminal(ctx context.Context, r ExecRequest, s Streams) (int, error) {
	run, err := c.beginExec(ctx, methodExec, r)
	if err != nil {
		return 0, err
	}
	defer run.Close()
	if run.terminal == nil {
		return 0, errors.New("the supervisor sent no terminal")
	}
	defer run.terminal.Close()
	if s.Terminal != nil {
		restore, err := follow(s.Terminal, func(size WindowSize) { _ = resize(run.terminal, size) })
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	if s.In != nil {
		go func() { _, _ = io.Copy(run.terminal, s.In) }()
	}
	out := newDrain(run.terminal, s.Out)
	end, err := run.await(ctx, s.Signals)
	err = errors.Join(err, out.finish())
	s.note(end)
	return end.exitCode(), err
}

// note tells the user why a program was killed.
func (s Streams) note(end ended) {
	if end.Note != "" && s.Err != nil {
		fmt.Fprintln(s.Err, "svcproxy: "+end.Note)
	}
}

// execution is a program that runs, at the client.
type execution struct {
	*session
	terminal *os.File
	saying   sync.Mutex
}

// say gives an order about the program.
func (e *execution) say(o order) {
	e.saying.Lock()
	defer e.saying.Unlock()
	_ = e.send(o)
}

func (e *execution) resize(to WindowSize) { e.say(order{Size: &to}) }

// beginExec returns when the program runs.
func (c *Client) beginExec(ctx context.Context, method string, r ExecRequest, files ...*os.File) (*execution, error) {
	s, err := c.begin(ctx, method, r, files...)
	if err != nil {
		return nil, err
	}
	files, _, err = s.next(ctx, nil)
	if err != nil {
		s.Close()
		return nil, err
	}
	run := &execution{session: s}
	if len(files) > 0 {
		// Not blocking, so that reading it can be given up.
		run.terminal, err = pollable(files[0])
		closeAll(files)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return run, nil
}

// pollable returns another handle of the file, with deadlines.
func pollable(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// await passes signals on until the program ends.
func (e *execution) await(ctx context.Context, signals <-chan os.Signal) (ended, error) {
	done := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case <-done:
				return
			case s, ok := <-signals:
				if number, is := s.(syscall.Signal); ok && is {
					e.say(order{Signal: int(number)})
				}
			}
		}
	})
	var end ended
	_, _, err := e.next(ctx, &end)
	close(done)
	passing.Wait()
	return end, err
}

// drain copies what a program writes. When the program has ended, what it wrote before is copied too, but
// nobody waits for others that have its output still open.
type drain struct {
	from *os.File
	to   io.Writer
	done chan struct{}
	err  error
}

// quiet is how long nothing must come after a program's end until that was all.
const quiet = 50 * time.Millisecond

func newDrain(from *os.File, to io.Writer) *drain {
	d := &drain{from: from, to: to, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		d.err = d.copy()
	}()
	return d
}

func (d *drain) copy() error {
	_, err := io.Copy(d.to, d.from)
	buf := make([]byte, 32<<10)
	for errors.Is(err, os.ErrDeadlineExceeded) {
		_ = d.from.SetReadDeadline(time.Now().Add(quiet))
		var n int
		n, err = d.from.Read(buf)
		if n > 0 {
			if _, writeErr := d.to.Write(buf[:n]); writeErr != nil {
				return writeErr
			}
			if err == nil {
				err = os.ErrDeadlineExceeded // look for more
			}
			continue
		}
		return nil
	}
	if errors.Is(err, unix.EIO) {
		return nil // how a terminal's master says that nobody has it open
	}
	return err
}

// finish copies the rest.
func (d *drain) finish() error {
	_ = d.from.SetReadDeadline(time.Unix(1, 0))
	<-d.done
	return d.err
}

func sizeOf(terminal *os.File) WindowSize {
	size, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return WindowSize{}
	}
	return WindowSize{Rows: size.Row, Columns: size.Col}
}

func resize(terminal *os.File, to WindowSize) error {
	raw, err := terminal.SyscallConn() // Fd would make it block
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: to.Rows, Col: to.Columns})
	})
	return errors.Join(err, failed)
}

// follow sets the caller's terminal raw and tells its size, now and when it changes.
func follow(own *os.File, tell func(WindowSize)) (restore func(), err error) {
	fd := int(own.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal raw: %w", err)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	done := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			tell(sizeOf(own))
			select {
			case <-changed:
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(changed)
		close(done)
		following.Wait()
		_ = term.Restore(fd, before)
	}, nil
}
