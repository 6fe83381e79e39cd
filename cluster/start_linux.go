package cluster

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

const (
	// startTimeout is how long a supervisor may take until it is ready for requests.
	startTimeout = 30 * time.Second
	// lockTimeout is how long to wait for another command that starts or removes the same sandbox.
	lockTimeout = 90 * time.Second
)

// StartOptions say how a supervisor comes to be.
type StartOptions struct {
	Config Config
	// Asked are the flags of Config that a user gave: a sandbox that is up already must have those.
	Asked []string
	// Command is the argv by which this program calls Supervise; the sandbox's folder is appended.
	Command []string
	Version string
}

// readiness is the one line that the supervisor says to the command that started it.
type readiness struct {
	Error string `json:"error,omitempty"`
}

// Start makes sure that the sandbox's supervisor runs, and returns a client for it. A supervisor that can't
// start leaves nothing behind.
func Start(ctx context.Context, root string, o StartOptions) (c *Client, started bool, err error) {
	f, err := folderOf(root, o.Config.Name)
	if err != nil {
		return nil, false, err
	}
	if err := makeOwned(root); err != nil {
		return nil, false, fmt.Errorf("folder for sandboxes: %w", err)
	}
	held, err := f.lock(true, lockTimeout)
	if err != nil {
		return nil, false, err
	}
	defer held.Close()
	c = &Client{folder: f, version: o.Version}
	alive, err := f.alive()
	if err != nil {
		return nil, false, err
	}
	if alive {
		status, err := c.Status(ctx)
		if err != nil {
			return nil, false, err
		}
		return c, false, o.Config.differences(status.Config, o.Asked)
	}
	if err := f.sweep(ctx); err != nil {
		return nil, false, fmt.Errorf("sandbox %s: remove what an earlier one left: %w", f.name(), err)
	}
	if err := f.launch(ctx, o); err != nil {
		err = fmt.Errorf("sandbox %s does not start: %w", f.name(), err)
		// Also when ctx has ended: what was begun is undone.
		return nil, false, errors.Join(err, f.demolish(context.WithoutCancel(ctx)))
	}
	return c, true, nil
}

// launch starts the supervisor in a session of its own and waits until it is ready.
func (f folder) launch(ctx context.Context, o StartOptions) error {
	suffix := make([]byte, 4)
	_, _ = rand.Read(suffix)
	o.Config.Cgroup = "svcproxy-" + f.name() + "-" + hex.EncodeToString(suffix)
	if err := f.write(configFile, o.Config); err != nil {
		return err
	}
	log, err := f.createLog()
	if err != nil {
		return err
	}
	defer log.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	// Files that this process was given by who started it, such as a shell's, stay here.
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	argv := append(slices.Clone(o.Command), string(f))
	cmd := &exec.Cmd{
		Path: reexec.Self(), Args: argv, Dir: "/", Stdout: tell, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return err
	}
	// A supervisor that ends while this process lives is nobody's zombie.
	go func() { _ = cmd.Wait() }()
	if err := f.awaitReady(ctx, ready); err != nil {
		return err
	}
	return f.recordAll(cmd.Process.Pid)
}

func (f folder) awaitReady(ctx context.Context, ready *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(ready).ReadBytes('\n')
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("it is not ready: %w%s", context.Cause(ctx), f.logTail())
	}
	if err != nil {
		return errors.New("its supervisor ended" + f.logTail())
	}
	var said readiness
	if err := json.Unmarshal(line, &said); err != nil {
		return fmt.Errorf("its supervisor said %q: %w", line, err)
	}
	if said.Error != "" {
		return errors.New(said.Error)
	}
	return nil
}

// recordAll adds the supervisor's inner processes to the record, which has the outermost since before it made
// anything.
func (f folder) recordAll(pid int) error {
	r, err := f.readRecord()
	if err != nil {
		return err
	}
	if r == nil || len(r.Processes) != 1 || r.Processes[0].PID != pid {
		return fmt.Errorf("%s is not of process %d", f.file(recordFile), pid)
	}
	r.Processes = family(r.Processes[0])
	return f.write(recordFile, r)
}

// family returns the chain of a supervisor's processes: the one that waits outside, its child, which is the
// init process of the namespaces, and the one that does the work in them.
func family(outer process) []process {
	chain := []process{outer}
	for len(chain) < 3 {
		children := chain[len(chain)-1].children()
		if len(children) == 0 {
			break
		}
		chain = append(chain, children[0]) // the oldest: init has adopted ones too
	}
	return chain
}

// logTail returns the end of the supervisor's log, to be put behind an error.
func (f folder) logTail() string {
	file, err := os.Open(f.file(logFile))
	if err != nil {
		return ""
	}
	defer file.Close()
	const most = 2000
	if info, err := file.Stat(); err == nil && info.Size() > most {
		_, _ = file.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(file)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(len(lines)-10, 0):]
	if text := strings.Join(lines, "\n"); text != "" {
		return "; its log ends with:\n" + text
	}
	return ""
}

// LogPath is where the sandbox's supervisor logs.
func LogPath(root, name string) string { return filepath.Join(root, name, logFile) }
