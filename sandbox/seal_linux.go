package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// seal mounts the program's own file, read-only, upon itself, and returns its path:
// executed again by that, the program cannot be written through the /proc/PID/exe of
// any process that runs it, whoever owns the file. Only this mount namespace has the
// mount. Where the file is no longer at its path, another descriptor does the same.
func seal() (string, error) {
	const self = "/proc/self/exe"
	path, err := os.Readlink(self)
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	if checkSealed() == nil {
		return self, nil // by whoever isolated this one, or the machine's own is
	}
	if sameFile(self, path) {
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			return "", fmt.Errorf("bind own program %s: %w", path, err)
		}
		return path, makeReadOnly(path)
	}
	// Executed through the descriptor, the mount lives as long as the program does.
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE)
	if err != nil {
		return "", fmt.Errorf("bind own program %s: %w", path, err)
	}
	unix.CloseOnExec(fd)
	return fmt.Sprintf("/proc/self/fd/%d", fd), setReadOnly(fd, 0)
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// makeReadOnly changes a mount and keeps its other flags, which the kernel demands
// in a user namespace. It works on kernels before mount_setattr.
func makeReadOnly(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("read mount flags of %s: %w", path, err)
	}
	// These flags of statfs have the numbers of mount's; relatime has not.
	const same = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(fs.Flags) & same
	if fs.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

// checkSealed makes sure that this program, which runs in every pod for a moment,
// cannot be written through a process that runs it.
func checkSealed() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &fs); err != nil {
		return fmt.Errorf("look at own program: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return errors.New("own program is on a writable mount, a pod could change it: pods with containers need a program that Isolate started")
	}
	return nil
}
