package image

import (
	"io/fs"
	"path"
	"strings"
)

// Files of a host: image's /etc. Those that are empty are there for the pod's own to be mounted on.
var etcFiles = map[string]string{
	"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
	"/etc/group":         "root:x:0:\nnogroup:x:65534:\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
	"/etc/hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	"/etc/resolv.conf":   "",
	"/etc/hostname":      "",
}

// caBundle is where Debian, Ubuntu, Alpine and Arch have the certificate authorities.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// terminals are those that somebody may look at a pod with.
var terminals = []string{"ansi", "dumb", "linux", "screen", "screen-256color", "tmux", "tmux-256color", "vt100", "vt220", "xterm", "xterm-256color"}

// surroundings plans what programs expect that their ELF headers do not name.
func (h *host) surroundings() error {
	for name, content := range etcFiles {
		h.file(name, content)
	}
	h.link("/etc/mtab", "../proc/self/mounts")
	h.link("/var/run", "../run")
	if h.links("libssl.so", "libgnutls.so") || h.programs["curl"] != "" {
		h.optional(caBundle)
	}
	if h.links("libtinfo.so", "libncurses") || h.programs["bash"] != "" {
		for _, name := range terminals {
			for _, dir := range []string{"/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"} {
				h.optional(path.Join(dir, name[:1], name))
			}
		}
	}
	return h.shell()
}

// links tells whether a library whose name begins so is planned.
func (h *host) links(prefixes ...string) bool {
	for name := range h.libs {
		for _, prefix := range prefixes {
			if strings.HasPrefix(name, prefix) {
				return true
			}
		}
	}
	return false
}

// shell makes /bin/sh one of the shells that are there, if it is not planned by itself.
func (h *host) shell() error {
	bin := "/bin"
	if e := h.entries[bin]; e.mode&fs.ModeSymlink != 0 {
		bin = path.Join("/", e.link)
	}
	for _, name := range []string{"dash", "bash", "busybox"} {
		if real := h.programs[name]; real != "" {
			h.link(path.Join(bin, "sh"), real)
		}
	}
	return nil
}

// mountPoints makes the folders that a pod mounts on or writes to, where an image has none.
func mountPoints(t *tree) error {
	for _, dir := range []struct {
		name string
		mode fs.FileMode
	}{
		{"dev", 0o755}, {"etc", 0o755}, {"proc", 0o555}, {"root", 0o700}, {"run", 0o755}, {"sys", 0o555},
		{"tmp", 0o777 | fs.ModeSticky}, {"var", 0o755}, {"var/tmp", 0o777 | fs.ModeSticky}, {"var/log", 0o755},
	} {
		if err := t.missing(dir.name, dir.mode); err != nil {
			return err
		}
	}
	return nil
}
