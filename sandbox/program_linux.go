package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Exit codes of what could not be started, as a shell has them.
const (
	// ExitNotExecutable: the program is there, and the kernel refused it.
	ExitNotExecutable = 126
	// ExitNotFound: there is no such program.
	ExitNotFound = 127
)

// StartError is why a program did not start in a container.
type StartError struct {
	// Code is ExitNotFound, ExitNotExecutable, or 125 for everything before the
	// program, such as a mount.
	Code    int
	Message string
}

func (e *StartError) Error() string { return e.Message }

// defaultPath is where programs are looked for without a PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a program by the PATH in env. Names with a slash are paths.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, checkProgram(name)
	}
	search := defaultPath
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			search = value
		}
	}
	var refused error
	for dir := range strings.SplitSeq(search, ":") {
		file := path.Join("/", dir, name) // a relative folder would depend on where we are
		err := checkProgram(file)
		if err == nil {
			return file, nil
		}
		if failed := (*StartError)(nil); refused == nil && errors.As(err, &failed) && failed.Code == ExitNotExecutable {
			refused = err
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", &StartError{ExitNotFound, fmt.Sprintf("program %q: not found in $PATH (%s)", name, search)}
}

func checkProgram(file string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return &StartError{ExitNotFound, fmt.Sprintf("program %s: no such file", file)}
	case err != nil:
		return execError(file, err)
	case info.IsDir():
		return &StartError{ExitNotExecutable, fmt.Sprintf("program %s: is a folder", file)}
	case info.Mode()&0o111 == 0:
		return &StartError{ExitNotExecutable, fmt.Sprintf("program %s: not executable", file)}
	}
	return nil
}

// execError explains what execve says of a program that exists.
func execError(file string, err error) error {
	why := err.Error()
	switch {
	case errors.Is(err, unix.ENOENT):
		why = "the interpreter or dynamic loader that it names is not in the container"
	case errors.Is(err, unix.ENOEXEC):
		why = "not a program of this machine's kind (exec format error)"
	}
	return &StartError{ExitNotExecutable, fmt.Sprintf("program %s: %s", file, why)}
}
