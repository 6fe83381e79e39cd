package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// An object is what the dynamic linker reads in an ELF file's headers.
type object struct {
	place   string // the path that it is loaded by
	class   elf.Class
	machine elf.Machine
	kind    elf.Type
	interp  string   // PT_INTERP; empty in libraries and static programs
	needed  []string // DT_NEEDED
	rpath   []string // DT_RPATH; empty if there is a DT_RUNPATH, as ld.so has it
	runpath []string // DT_RUNPATH
	nodeflt bool     // DF_1_NODEFLIB: the default folders are not searched
}

// readObject reads the headers of a file that is to be loaded by the path place.
func readObject(file, place string) (*object, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	o := &object{place: place, class: f.Class, machine: f.Machine, kind: f.Type}
	for _, p := range f.Progs {
		if p.Type == elf.PT_DYNAMIC && f.SectionByType(elf.SHT_DYNAMIC) == nil {
			return nil, errors.New("has no section headers, which would tell its libraries")
		}
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz > 4096 {
			return nil, errors.New("the interpreter's name is too long")
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return nil, err
		}
		o.interp = strings.TrimRight(string(name), "\x00")
	}
	// A file without a dynamic section gives none of these and no error.
	if o.needed, err = f.ImportedLibraries(); err != nil {
		return nil, err
	}
	if o.rpath, err = searchPath(f, elf.DT_RPATH); err != nil {
		return nil, err
	}
	if o.runpath, err = searchPath(f, elf.DT_RUNPATH); err != nil {
		return nil, err
	}
	if len(o.runpath) > 0 {
		o.rpath = nil
	}
	flags, err := f.DynValue(elf.DT_FLAGS_1)
	if err != nil {
		return nil, err
	}
	for _, v := range flags {
		o.nodeflt = o.nodeflt || v&uint64(elf.DF_1_NODEFLIB) != 0
	}
	return o, nil
}

func searchPath(f *elf.File, tag elf.DynTag) ([]string, error) {
	lists, err := f.DynString(tag)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, list := range lists {
		folders = append(folders, strings.Split(list, ":")...)
	}
	return folders, nil
}

// A linker finds libraries as ld.so(8) does for a program that is started with an empty
// environment: DT_RPATH of who needs one and of who loaded that, DT_RUNPATH of who needs it, the
// folders of ld.so.conf, the default ones.
type linker struct {
	configured []string // folders of ld.so.conf
	objects    map[string]*object
}

func newLinker() *linker {
	return &linker{configured: readLinkerConf("/etc/ld.so.conf", 0), objects: make(map[string]*object)}
}

// A library is one that a program loads.
type library struct {
	*object
	name   string   // as it was asked for
	loader *library // who asked; nil: the program itself
	conf   bool     // found only by ld.so.conf
}

func (l *linker) read(place string) (*object, error) {
	if o := l.objects[place]; o != nil {
		return o, nil
	}
	o, err := readObject(place, place)
	if err == nil {
		l.objects[place] = o
	}
	return o, err
}

// closure returns all libraries that the program, or library, loads, in the order of loading.
func (l *linker) closure(program *object) ([]*library, error) {
	loaded := make(map[string]bool)
	queue := []*library{{object: program}}
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		for _, name := range at.needed {
			if loaded[name] {
				continue
			}
			loaded[name] = true
			lib, err := l.find(name, at)
			if err != nil {
				return nil, err
			}
			queue = append(queue, lib)
		}
	}
	return queue[1:], nil
}

// find finds the library that the object needs.
func (l *linker) find(name string, by *library) (*library, error) {
	found := func(o *object, conf bool) (*library, error) {
		return &library{object: o, name: name, loader: by, conf: conf}, nil
	}
	if strings.Contains(name, "/") {
		for _, file := range expand(name, by.object) {
			if o := l.fitting(file, by.object); o != nil && path.IsAbs(file) {
				return found(o, false)
			}
		}
		return nil, fmt.Errorf("library %s, which %s needs, is not there", name, by.place)
	}
	for _, dir := range searched(by) {
		if o := l.fitting(path.Join(dir, name), by.object); o != nil {
			return found(o, false)
		}
	}
	usual := defaultFolders(by.object)
	if by.nodeflt {
		usual = nil
	}
	for _, dir := range l.configured {
		if o := l.fitting(path.Join(dir, name), by.object); o != nil {
			return found(o, !slices.Contains(usual, dir))
		}
	}
	for _, dir := range usual {
		if o := l.fitting(path.Join(dir, name), by.object); o != nil {
			return found(o, false)
		}
	}
	return nil, fmt.Errorf("library %s, which %s needs, is in no folder where the dynamic linker looks", name, by.place)
}

// searched are the folders that the headers name for what the library needs.
func searched(by *library) []string {
	var folders []string
	// An object with a DT_RUNPATH does not get the DT_RPATH of its loaders.
	for at := by; at != nil && len(by.runpath) == 0; at = at.loader {
		for _, dir := range at.rpath {
			folders = append(folders, expand(dir, at.object)...)
		}
	}
	for _, dir := range by.runpath {
		folders = append(folders, expand(dir, by.object)...)
	}
	return folders
}

// fitting reads a library if it is there and for the same processor, else nil: ld.so goes on too.
func (l *linker) fitting(file string, by *object) *object {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	o, err := l.read(file)
	if err != nil || o.class != by.class || o.machine != by.machine || o.kind != elf.ET_DYN {
		return nil
	}
	return o
}

// expand replaces $ORIGIN, $LIB and $PLATFORM. $LIB differs between distributions, so there may be
// several results.
func expand(s string, o *object) []string {
	origin := path.Dir(o.place)
	if real, err := filepath.EvalSymlinks(origin); err == nil {
		origin = real
	}
	platform := map[elf.Machine]string{elf.EM_X86_64: "x86_64", elf.EM_AARCH64: "aarch64", elf.EM_386: "i686", elf.EM_RISCV: "riscv64"}[o.machine]
	s = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin, "$PLATFORM", platform, "${PLATFORM}", platform).Replace(s)
	var all []string
	for _, lib := range []string{"lib/" + triplet(o), "lib64", "lib"} {
		one := strings.NewReplacer("$LIB", lib, "${LIB}", lib).Replace(s)
		if path.IsAbs(one) && !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	return all
}

// triplet is the name of Debian's folder for the object's processor.
func triplet(o *object) string {
	return map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu", elf.EM_386: "i386-linux-gnu",
		elf.EM_ARM: "arm-linux-gnueabihf", elf.EM_RISCV: "riscv64-linux-gnu", elf.EM_PPC64: "powerpc64le-linux-gnu", elf.EM_S390: "s390x-linux-gnu"}[o.machine]
}

// defaultFolders are those that ld.so searches without being told to.
func defaultFolders(o *object) []string {
	var folders []string
	if t := triplet(o); t != "" {
		folders = append(folders, "/lib/"+t, "/usr/lib/"+t)
	}
	if o.class == elf.ELFCLASS64 {
		folders = append(folders, "/lib64", "/usr/lib64")
	}
	return append(folders, "/lib", "/usr/lib")
}

// readLinkerConf reads the folders of ld.so.conf and of what it includes. What can't be read has
// none: not every system has the file.
func readLinkerConf(file string, depth int) []string {
	content, err := os.ReadFile(file)
	if err != nil || depth > 8 {
		return nil
	}
	var folders []string
	for line := range strings.Lines(string(content)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "include":
			for _, pattern := range fields[1:] {
				if !path.IsAbs(pattern) {
					pattern = path.Join(path.Dir(file), pattern)
				}
				files, _ := filepath.Glob(pattern) // a bad pattern includes nothing
				for _, f := range files {
					folders = append(folders, readLinkerConf(f, depth+1)...)
				}
			}
		case path.IsAbs(fields[0]):
			folders = append(folders, path.Clean(fields[0]))
		}
	}
	return folders
}

// isNotELF tells the error for a file that is something else.
func isNotELF(err error) bool {
	var format *elf.FormatError
	return errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
