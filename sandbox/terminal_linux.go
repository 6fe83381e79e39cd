package sandbox

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Window is the size of a terminal in characters. The zero value is unknown.
type Window struct {
	Rows, Columns uint16
}

// SetWindow sets the size of a terminal by its master; the programs in it get
// SIGWINCH.
func SetWindow(master *os.File, size Window) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = setWindow(int(fd), size) }); err != nil {
		return err
	}
	return failed
}

func setWindow(fd int, size Window) error {
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns}); err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}

// openTerminal makes a terminal in the container's own devpts, given to the user, and
// makes it the controlling one of this process, which must lead a session.
func openTerminal(size Window, uid int) (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/pts/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("get number: %w", err)
	}
	if err := setWindow(fd, size); err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := slave.Chown(uid, -1); err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetInt(int(slave.Fd()), unix.TIOCSCTTY, 0); err != nil {
		return nil, nil, fmt.Errorf("make controlling: %w", err)
	}
	return master, slave, nil
}

// isTerminal tells whether the file is one; others who have it could type into it.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
