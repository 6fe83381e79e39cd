package image_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"svcproxy/sandbox/image"
	"svcproxy/test/nstest"
)

// An object is what writeELF writes: headers, and no code.
type object struct {
	machine elf.Machine // zero: this one
	interp  string
	entries [][2]string // NEEDED, RPATH or RUNPATH, and its string
	bare    bool        // without section headers, and with a dynamic segment
}

func needed(name string) [2]string { return [2]string{"NEEDED", name} }

func thisMachine() elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
}

// writeELF writes a 64 bit ELF file with a dynamic section.
func writeELF(t *testing.T, file string, o object) {
	t.Helper()
	tags := map[string]elf.DynTag{"NEEDED": elf.DT_NEEDED, "RPATH": elf.DT_RPATH, "RUNPATH": elf.DT_RUNPATH}
	text, dynamic := "\x00", new(bytes.Buffer)
	put := func(w *bytes.Buffer, v any) {
		if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range o.entries {
		put(dynamic, elf.Dyn64{Tag: int64(tags[e[0]]), Val: uint64(len(text))})
		text += e[1] + "\x00"
	}
	put(dynamic, elf.Dyn64{})
	if o.machine == 0 {
		o.machine = thisMachine()
	}
	const ehsize, phsize, shsize = 64, 56, 64
	at := uint64(ehsize + phsize)
	interp := o.interp + "\x00"
	textAt := at + uint64(len(interp))
	dynAt := textAt + uint64(len(text))
	shAt := dynAt + uint64(dynamic.Len())
	header := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(o.machine), Version: 1, Phoff: ehsize, Shoff: shAt,
		Ehsize: ehsize, Phentsize: phsize, Phnum: 1, Shentsize: shsize, Shnum: 3}
	if o.bare {
		header.Shoff, header.Shnum = 0, 0
	}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	put(&b, header)
	prog := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: at, Filesz: uint64(len(interp)), Memsz: uint64(len(interp))}
	if o.interp == "" {
		prog.Type = uint32(elf.PT_NULL)
	}
	if o.bare {
		prog.Type = uint32(elf.PT_DYNAMIC)
	}
	put(&b, prog)
	b.WriteString(interp + text)
	b.Write(dynamic.Bytes())
	put(&b, elf.Section64{})
	put(&b, elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: textAt, Size: uint64(len(text))})
	put(&b, elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: uint64(dynamic.Len()), Link: 1, Entsize: 16})
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Libraries come from where ld.so(8) would take them, and those of other machines are passed over.
func TestLibrarySearch(t *testing.T) {
	origin := [2]string{"RUNPATH", "$ORIGIN/../lib"}
	for name, c := range map[string]struct {
		files map[string]object
		want  []string
		not   []string
		says  string
	}{
		"runpath":          {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), origin}}, "lib/a.so": {}}, want: []string{"lib/a.so"}},
		"braces":           {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), {"RUNPATH", "/nosuch:${ORIGIN}/x"}}}, "bin/x/a.so": {}}, want: []string{"bin/x/a.so"}},
		"lib":              {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), {"RUNPATH", "$ORIGIN/../$LIB"}}}, "lib64/a.so": {}}, want: []string{"lib64/a.so"}},
		"transitive":       {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), origin}}, "lib/a.so": {entries: [][2]string{needed("b.so"), {"RUNPATH", "$ORIGIN/more"}}}, "lib/more/b.so": {}}, want: []string{"lib/more/b.so"}},
		"cycle":            {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), origin}}, "lib/a.so": {entries: [][2]string{needed("a.so")}}}, want: []string{"lib/a.so"}},
		"rpath goes down":  {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), {"RPATH", "$ORIGIN/../lib"}}}, "lib/a.so": {entries: [][2]string{needed("b.so")}}, "lib/b.so": {}}, want: []string{"lib/b.so"}},
		"runpath does not": {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), origin}}, "lib/a.so": {entries: [][2]string{needed("b.so")}}, "lib/b.so": {}}, says: "library b.so"},
		"runpath hides rpath": {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), {"RPATH", "$ORIGIN/r"}, origin}}, "bin/r/a.so": {}, "lib/a.so": {}},
			want: []string{"lib/a.so"}, not: []string{"bin/r/a.so"}},
		"other machine": {files: map[string]object{"bin/p": {entries: [][2]string{needed("a.so"), {"RUNPATH", "$ORIGIN/x:$ORIGIN/y"}}}, "bin/x/a.so": {machine: elf.EM_SPARCV9}, "bin/y/a.so": {}},
			want: []string{"bin/y/a.so"}, not: []string{"bin/x/a.so"}},
		"by path":      {files: map[string]object{"bin/p": {entries: [][2]string{needed("$ORIGIN/x/a.so")}}, "bin/x/a.so": {}}, want: []string{"bin/x/a.so"}},
		"missing":      {files: map[string]object{"bin/p": {entries: [][2]string{needed("no-such.so.1")}}}, says: "library no-such.so.1, which"},
		"bare":         {files: map[string]object{"bin/p": {bare: true}}, says: "no section headers"},
		"no linker":    {files: map[string]object{"bin/p": {interp: "/no/ld.so"}}, says: "dynamic linker"},
		"machine's":    {files: map[string]object{"bin/p": {entries: [][2]string{needed("libc.so.6")}}}},
		"not anywhere": {files: map[string]object{"bin/p": {entries: [][2]string{needed("../lib/a.so")}}, "lib/a.so": {}}, says: "library ../lib/a.so"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			for file, o := range c.files {
				writeELF(t, filepath.Join(base, file), o)
			}
			i, err := tryGet(t.Context(), store(t, image.Options{}), "host:"+base+"/bin/p")
			if c.says != "" || err != nil {
				if c.says == "" || err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want: %s", err, c.says)
				}
				return
			}
			for _, file := range c.want {
				if _, err := os.Stat(filepath.Join(i.Layers[0], base, file)); err != nil {
					t.Error(err)
				}
			}
			for _, file := range c.not {
				if _, err := os.Stat(filepath.Join(i.Layers[0], base, file)); err == nil {
					t.Error(file, "was taken too")
				}
			}
		})
	}
}

// A root has no ld.so.cache, so a library that only ld.so.conf leads to gets a link where every
// program looks.
func TestLibraryOfLinkerConf(t *testing.T) {
	nstest.Require(t)
	base := t.TempDir()
	conf := filepath.Join(base, "ld.so.conf")
	if err := os.WriteFile(conf, []byte("include "+base+"/conf.d/*.conf # all\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	writeELF(t, filepath.Join(base, "conf.d/x/a.so"), object{})
	if err := os.WriteFile(filepath.Join(base, "conf.d/x.conf"), []byte("# comment\n"+base+"/conf.d/x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(conf, "/etc/ld.so.conf", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount("/etc/ld.so.conf", 0); err != nil {
			t.Fatal(err)
		}
	}()
	writeELF(t, filepath.Join(base, "p"), object{entries: [][2]string{needed("libc.so.6"), needed("a.so")}})
	i := get(t, store(t, image.Options{}), "host:"+base+"/p")
	for _, pattern := range []string{"usr/lib/a.so", "usr/lib64/a.so", "usr/lib/*/a.so", "lib/*/a.so"} {
		links, err := filepath.Glob(filepath.Join(i.Layers[0], pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && target == base+"/conf.d/x/a.so" {
				return
			}
		}
	}
	t.Error("no link to the library")
}
