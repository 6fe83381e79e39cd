package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process names a process for good: numbers are used again, but not with the same start.
type process struct {
	PID int `json:"pid"`
	// Start is when it started, in the kernel's clock ticks since boot.
	Start uint64 `json:"start"`
}

// errGone is returned for a process that has ended, also where its number is another's now.
var errGone = errors.New("the process has ended")

// stat is what of /proc/PID/stat matters here.
type stat struct {
	parent int
	start  uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, errGone
	}
	if err != nil {
		return stat{}, err
	}
	// The second field is the command in parentheses, which may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat: %d fields after the command", pid, len(fields))
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: parent: %w", pid, err)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: start: %w", pid, err)
	}
	return stat{parent: parent, start: start}, nil
}

// findProcess names the process that has the number now.
func findProcess(pid int) (process, error) {
	s, err := readStat(pid)
	return process{PID: pid, Start: s.start}, err
}

// open returns a pidfd of the process, or errGone.
func (p process) open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	// Only now does the number stay the process's. One that is a zombie may have threads that go on, and the init process
	// of a PID namespace waits in one of them for all others there: it is over when the pidfd says so.
	s, err := readStat(p.PID)
	if err == nil && s.start != p.Start {
		err = errGone
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// children returns a process's children.
func (p process) children() []process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var found []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil && s.parent == p.PID {
			found = append(found, process{pid, s.start})
		}
	}
	return found
}

func kill(pidfd *os.File) error {
	err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// awaitEnd waits until the process of a pidfd has ended, which for the init process of a PID namespace means
// that all others in it have too.
func awaitEnd(pidfd *os.File, deadline time.Time) bool {
	for {
		left := max(time.Until(deadline), 0)
		polled := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, int(left.Milliseconds()))
		if n > 0 {
			return true
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if left == 0 || err != nil {
			return false
		}
	}
}

// pidOf tells the number that the process of a pidfd has in this process's PID namespace.
func pidOf(pidfd *os.File) (int, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(info) {
		if value, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, errors.New("fdinfo of a pidfd has no Pid")
}
