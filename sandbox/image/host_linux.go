package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// defaultPath is PATH in host: and rootfs: images, as Debian has it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// selfPlace is where host:svcproxy is in a root.
const selfPlace = "/usr/local/bin/" + Self

// maxScripts bounds scripts that are interpreted by scripts, as execve(2) does.
const maxScripts = 4

// topFolders are those that may be symlinks into /usr; a root has them as the machine has.
var topFolders = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// A host collects the programs of a host: reference, and what they need, into a plan.
type host struct {
	*plan
	linker   *linker
	seen     map[string]bool   // programs and libraries that are planned with all they need
	programs map[string]string // where programs really are, by base name
	libs     map[string]string // where libraries really are, by the name they are loaded by
}

func (s *Store) openHost(r Reference) (source, error) {
	h := &host{plan: newPlan(), linker: newLinker(), seen: make(map[string]bool),
		programs: make(map[string]string), libs: make(map[string]string)}
	for _, dir := range append([]string{"/usr/bin", "/usr/sbin", "/usr/lib"}, topFolders...) {
		if _, err := h.place(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, name := range r.Programs {
		err := h.add(name, s.options.Self)
		if err != nil && len(r.Programs) > 1 {
			err = fmt.Errorf("%s: %w", name, err)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := h.surroundings(); err != nil {
		return nil, err
	}
	return h.plan, nil
}

// add plans a program of the reference.
func (h *host) add(name, self string) error {
	if name == Self {
		h.parents(selfPlace)
		if err := h.copy(selfPlace, self); err != nil {
			return err
		}
		o, err := readObject(self, selfPlace)
		if err != nil {
			return err
		}
		return h.needs(o)
	}
	file, err := lookPath(name)
	if err != nil {
		return err
	}
	if err := h.program(file, 0); err != nil {
		return err
	}
	if !slices.Contains(strings.Split(defaultPath, ":"), path.Dir(file)) {
		h.link("/usr/local/bin/"+path.Base(file), file)
	}
	return nil
}

// lookPath finds a program in PATH and where administrators' programs are.
func lookPath(name string) (string, error) {
	if path.IsAbs(name) {
		return name, nil
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		file := path.Join(dir, name)
		if info, err := os.Stat(file); path.IsAbs(dir) && err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return file, nil
		}
	}
	return "", errors.New("program not found in PATH")
}

// program plans a program by its path, with what it needs to run.
func (h *host) program(file string, depth int) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("not a program: its mode is %v", info.Mode())
	}
	real, err := h.place(file)
	if err != nil {
		return err
	}
	h.programs[path.Base(file)] = real
	if h.seen[real] {
		return nil
	}
	h.seen[real] = true
	line, isScript, err := scriptLine(real)
	if err != nil {
		return err
	}
	if isScript {
		return h.interpreter(line, depth)
	}
	o, err := h.linker.read(real)
	if isNotELF(err) {
		return errors.New("not a program: neither an ELF executable nor a script with an interpreter")
	}
	if err != nil {
		return err
	}
	if o.kind != elf.ET_EXEC && o.kind != elf.ET_DYN {
		return fmt.Errorf("not a program but an ELF file of type %v", o.kind)
	}
	return h.needs(o)
}

// scriptLine returns what follows #! in a script's first line.
func scriptLine(file string) (line string, isScript bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	start := make([]byte, 256) // as many as the kernel reads
	n, err := io.ReadFull(f, start)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return "", false, err
	}
	rest, isScript := bytes.CutPrefix(start[:n], []byte("#!"))
	first, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(first), isScript, nil
}

// interpreter plans the program that runs a script, and the one that env looks up for it.
func (h *host) interpreter(line string, depth int) error {
	if depth == maxScripts {
		return fmt.Errorf("more than %d scripts that are interpreted by one another", maxScripts)
	}
	words := strings.Fields(line)
	if len(words) == 0 || !path.IsAbs(words[0]) {
		return fmt.Errorf("the script's interpreter %q is no absolute path", line)
	}
	if err := h.program(words[0], depth+1); err != nil {
		return fmt.Errorf("interpreter %s: %w", words[0], err)
	}
	if path.Base(words[0]) != "env" {
		return nil
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue
		}
		file, err := lookPath(word)
		if err == nil {
			err = h.program(file, depth+1)
		}
		if err != nil {
			return fmt.Errorf("interpreter %s: %w", word, err)
		}
		break
	}
	return nil
}

// needs plans an executable's interpreter and libraries.
func (h *host) needs(o *object) error {
	if o.interp != "" {
		if _, err := h.place(o.interp); err != nil {
			return fmt.Errorf("dynamic linker: %w", err)
		}
	}
	libs, err := h.linker.closure(o)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		real, err := h.place(lib.place)
		if err != nil {
			return err
		}
		h.libs[path.Base(lib.name)] = real
		if lib.name != "libc.so.6" || h.seen[real] {
			continue
		}
		h.seen[real] = true
		if err := h.loadedLater(path.Dir(lib.place), lib); err != nil {
			return err
		}
	}
	return h.findable(libs)
}

// loadedLater plans the libraries that glibc loads by itself: for host names and users (inside
// libc.so.6 since glibc 2.34), and when a thread ends.
func (h *host) loadedLater(dir string, libc *library) error {
	for _, name := range []string{"libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1"} {
		o := h.linker.fitting(path.Join(dir, name), libc.object)
		if o == nil {
			continue
		}
		if _, err := h.place(o.place); err != nil {
			return err
		}
		libs, err := h.linker.closure(o)
		if err != nil {
			return err
		}
		for _, lib := range libs {
			if _, err := h.place(lib.place); err != nil {
				return err
			}
		}
	}
	return nil
}

// findable plans symlinks, next to the C library, to libraries that only ld.so.conf leads to: a
// root has no ld.so.cache.
func (h *host) findable(libs []*library) error {
	var usual string
	for _, lib := range libs {
		if strings.HasPrefix(lib.name, "libc.so") || strings.HasPrefix(lib.name, "libc.musl") {
			usual = path.Dir(h.libs[path.Base(lib.name)])
		}
	}
	for _, lib := range libs {
		if lib.conf && usual != "" {
			h.link(path.Join(usual, lib.name), lib.place)
		}
	}
	return nil
}
