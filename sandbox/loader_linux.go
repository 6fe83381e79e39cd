package sandbox

import (
	"bufio"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loader is what it takes to execute this program once more in another tree, where it
// is linked dynamically: the program that the kernel starts to link it, and the
// libraries. It is empty for a static program.
type loader struct {
	interpreter string
	libraries   []string
}

func ownLoader() (loader, error) {
	const self = "/proc/self/exe"
	program, err := elf.Open(self)
	if err != nil {
		return loader{}, fmt.Errorf("read own program: %w", err)
	}
	defer program.Close()
	section := program.Section(".interp")
	if section == nil {
		return loader{}, nil
	}
	name, err := section.Data()
	if err != nil {
		return loader{}, fmt.Errorf("read own program's loader: %w", err)
	}
	l := loader{interpreter: strings.TrimRight(string(name), "\x00")}
	path, err := os.Readlink(self)
	if err != nil {
		return loader{}, fmt.Errorf("find own program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return loader{}, fmt.Errorf("find own libraries: %w", err)
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // range, permissions, offset, device, inode, path
		if len(fields) == 6 && strings.HasPrefix(fields[5], "/") && fields[5] != path && !slices.Contains(l.libraries, fields[5]) {
			l.libraries = append(l.libraries, fields[5])
		}
	}
	return l, lines.Err()
}

// bind makes the files visible at their own paths below root.
func (l loader) bind(root string) error {
	files := l.libraries
	if l.interpreter != "" && !slices.Contains(files, l.interpreter) {
		files = append([]string{l.interpreter}, files...)
	}
	for _, file := range files {
		to := root + file
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = os.WriteFile(to, nil, 0o600)
		}
		if err == nil {
			err = unix.Mount(file, to, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("bind own library %s: %w", file, err)
		}
	}
	return nil
}

// env tells the loader where the libraries are.
func (l loader) env() []string {
	var dirs []string
	for _, file := range l.libraries {
		if dir := filepath.Dir(file); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	return []string{"LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}
}
