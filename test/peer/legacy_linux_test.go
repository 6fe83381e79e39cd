package peer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// smallMessages has the proxies use the kernel's older interface of iptables where the newer one takes no message
// of the size that kube-proxy sends: without rights over the machine a socket's buffer can't be made large.
// svcproxy would split what it sends.
//
// It returns the folder that it made, if any.
func smallMessages() (dir string, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20)
	if !errors.Is(err, unix.EPERM) {
		return "", err
	}
	legacy, err := exec.LookPath("xtables-legacy-multi")
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "iptables-legacy"); err != nil {
		return "", err
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink(legacy, filepath.Join(dir, name)); err != nil {
			return dir, err
		}
	}
	return dir, os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}
