// Package image makes the root file systems of pods: from programs of this machine with the
// libraries that they name, from a folder, or from OCI and docker images on disk. Nothing is
// fetched over a network.
//
// A root is assembled once, in a Store, and then shared by all pods as a lower layer of
// overlayfs. Nobody may write to it.
package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
)

// Config is what an image says about running it.
type Config struct {
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Env        []string `json:"env,omitempty"` // KEY=VALUE
	WorkingDir string   `json:"workingDir,omitempty"`
	User       string   `json:"user,omitempty"` // as LookupUser takes it
}

// An Image is an assembled root file system. It is good as long as its Store's folder.
type Image struct {
	// ID is the same for the same content: programs and their versions, or an image's digest.
	ID string
	// Layers are folders for overlayfs, topmost first. They are not to be written to.
	Layers []string
	Config Config
	// Skipped counts the entries of an archive that were left out: device nodes, pipes.
	Skipped int
}

// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
const maxAccounts = 16 << 20

// LookupUser finds a user of the image: "" (root), "1000", "nobody", "1000:1000", "nobody:daemon",
// by the image's own /etc/passwd and /etc/group. A number need not be in them. The home is / where
// they name none. Symlinks in the image are followed as if the image were the whole file system.
func (i *Image) LookupUser(name string) (uid, gid int, groups []int, home string, err error) {
	passwd, err := i.readFile("etc/passwd")
	if err != nil {
		return 0, 0, nil, "", err
	}
	group, err := i.readFile("etc/group")
	if err != nil {
		return 0, 0, nil, "", err
	}
	u, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return 0, 0, nil, "", fmt.Errorf("user %q of image %s: %w", name, i.ID, err)
	}
	if u.Home == "" {
		u.Home = "/"
	}
	return u.Uid, u.Gid, u.Sgids, u.Home, nil
}

// readFile reads a file from the topmost layer that has it; nil if none has.
func (i *Image) readFile(name string) ([]byte, error) {
	for _, layer := range i.Layers {
		content, err := readInside(layer, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: read /%s: %w", i.ID, name, err)
		}
		return content, nil
	}
	return nil, nil
}

// readInside reads a regular file below the folder.
func readInside(folder, name string) ([]byte, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	inside, err := resolve(folder, name)
	if err != nil {
		return nil, err
	}
	// A pipe in the image must not block.
	f, err := root.OpenFile(inside, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if len(content) > maxAccounts {
		err = fmt.Errorf("longer than %d bytes", maxAccounts)
	}
	return content, err
}

// resolve follows the symlinks of name as if the folder were the root directory and returns a
// relative path without symlinks. What does not exist is taken as it is. It is for folders that
// nobody changes at the same time; the path is used with os.Root all the same.
func resolve(folder, name string) (string, error) {
	full, err := securejoin.SecureJoin(folder, name)
	if err != nil {
		return "", err
	}
	inside, err := filepath.Rel(folder, full)
	if err == nil && (inside == ".." || strings.HasPrefix(inside, "../")) {
		err = fmt.Errorf("%s leads outside", name)
	}
	return inside, err
}
