package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// seal returns a path by which to execute this program so that nobody can write it
// through the /proc/PID/exe of a process that runs it, whoever owns the file: that is
// the file mounted read-only upon itself, in this mount namespace alone; or, where the
// file is no longer at its path, a copy in memory that is closed to writing.
func seal() (string, error) {
	if checkSealed() == nil {
		return selfPath, nil // by who isolated this one, or the machine's own is
	}
	path, err := os.Readlink(selfPath)
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	if !sameFile(selfPath, path) {
		return sealCopy()
	}
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind own program %s: %w", path, err)
	}
	return path, makeReadOnly(path)
}

const selfPath = "/proc/self/exe"

// copySeals are what makes a file in memory as good as a read-only mount.
const copySeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sealCopy leaves the copy open, which makes it last until it is executed.
func sealCopy() (string, error) {
	program, err := os.Open(selfPath)
	if err != nil {
		return "", fmt.Errorf("copy own program: %w", err)
	}
	defer program.Close()
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("svcproxy", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all are executable
		fd, err = unix.MemfdCreate("svcproxy", flags)
	}
	if err != nil {
		return "", fmt.Errorf("copy own program: %w", err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	target, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = io.Copy(target, program)
		err = errors.Join(err, target.Close()) // nobody may have it open for writing
	}
	if err != nil {
		return "", fmt.Errorf("copy own program: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, copySeals); err != nil {
		return "", fmt.Errorf("close the copy of own program to writing: %w", err)
	}
	// execve refuses a file that is open for writing, as this first descriptor is.
	readOnly, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open the copy of own program: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", readOnly), unix.Close(fd)
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
	program, err := os.Open(selfPath)
	if err != nil {
		return fmt.Errorf("look at own program: %w", err)
	}
	defer program.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(program.Fd()), &fs); err != nil {
		return fmt.Errorf("look at own program: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	if seals, err := unix.FcntlInt(program.Fd(), unix.F_GET_SEALS, 0); err == nil && seals&unix.F_SEAL_WRITE != 0 {
		return nil
	}
	return errors.New("own program can be written, a pod could change it: pods with containers need a program that Isolate started")
}
