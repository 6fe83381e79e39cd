// Package netns works inside network namespaces that are named by a path, such as /run/netns/node or
// /proc/1/ns/net.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Do calls fn on a thread inside the namespace at path; empty means where the caller is. Sockets that fn
// opens and processes that it starts stay inside. A thread that can't get back is not used again.
func Do(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := inside(path, fn)
		if back {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// inside moves the calling thread into the namespace for fn, and tells whether it is back.
func inside(path string, fn func() error) (back bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	there, err := os.Open(path)
	if err != nil {
		return true, fmt.Errorf("open network namespace: %w", err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	err = fn()
	return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil, err
}

// ErrNoIPv6 says that a network namespace has no IPv6.
var ErrNoIPv6 = errors.New("no IPv6")

// CheckIPv6 returns nil if the namespace at path has IPv6, and an error that is ErrNoIPv6 and says why if it
// has not.
func CheckIPv6(path string) error {
	const setting = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	return Do(path, func() error {
		text, err := os.ReadFile(setting)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: the kernel has none (%s is missing)", ErrNoIPv6, setting)
		case err != nil:
			return fmt.Errorf("is IPv6 enabled: %w", err)
		case strings.TrimSpace(string(text)) != "0":
			return fmt.Errorf("%w: it is disabled (net.ipv6.conf.all.disable_ipv6)", ErrNoIPv6)
		}
		return nil
	})
}
