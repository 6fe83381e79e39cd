package image

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
)

// A Kind says where a root file system comes from. Its text is the reference's prefix, as in
// containers-transports(5) for the last three.
type Kind string

// The kinds of references.
const (
	Host          Kind = "host"           // programs of this machine with what they need
	RootFS        Kind = "rootfs"         // a folder that is a root file system
	OCI           Kind = "oci"            // a folder in the OCI image layout
	OCIArchive    Kind = "oci-archive"    // a tar file of such a folder
	DockerArchive Kind = "docker-archive" // a tar file as docker save writes it
)

// Self is the name under which a host reference means this program itself.
const Self = "svcproxy"

// A Reference names a root file system. Only ParseReference makes good ones.
type Reference struct {
	Kind     Kind
	Programs []string // of Host: names without a slash, or absolute paths; none twice
	Path     string   // of all others: an absolute, clean path
	Tag      string   // of OCI, OCIArchive and DockerArchive: which image of several, may be empty
}

// String is the reference as ParseReference takes it.
func (r Reference) String() string {
	if r.Kind == Host {
		return string(r.Kind) + ":" + strings.Join(r.Programs, ",")
	}
	if r.Tag != "" {
		return string(r.Kind) + ":" + r.Path + ":" + r.Tag
	}
	return string(r.Kind) + ":" + r.Path
}

// ParseReference reads one of
//
//	host:bash,ls,/opt/tool      programs, looked up in PATH or given as absolute paths; svcproxy is this program
//	rootfs:/folder              a folder, used as it is
//	oci:/layout[:tag]           an OCI image layout; the tag is its org.opencontainers.image.ref.name
//	oci-archive:/file.tar[:tag] the same in a tar file
//	docker-archive:/file.tar[:name[:tag]]
//
// Nothing is looked at on the disk. Errors begin with the reference.
func ParseReference(s string) (Reference, error) {
	r, err := parse(s)
	if err != nil {
		return Reference{}, fmt.Errorf("%s: %w", printable(s), err)
	}
	return r, nil
}

func parse(s string) (Reference, error) {
	if strings.ContainsFunc(s, func(c rune) bool { return unicode.IsControl(c) || c == unicode.ReplacementChar }) {
		return Reference{}, errors.New("an image reference has no control characters")
	}
	prefix, rest, found := strings.Cut(s, ":")
	kind := Kind(prefix)
	switch {
	case found && kind == Host:
		programs, err := parsePrograms(rest)
		return Reference{Kind: kind, Programs: programs}, err
	case found && kind == RootFS:
		p, err := parsePath(rest)
		return Reference{Kind: kind, Path: p}, err
	case found && (kind == OCI || kind == OCIArchive || kind == DockerArchive):
		// A colon ends the path, as it does for other tools that read these references.
		p, tag, tagged := strings.Cut(rest, ":")
		if tagged && tag == "" {
			return Reference{}, errors.New("the tag after the last colon is empty")
		}
		p, err := parsePath(p)
		return Reference{Kind: kind, Path: p, Tag: tag}, err
	}
	return Reference{}, errors.New("unknown image reference: nothing is pulled from a registry, " +
		"use host:PROGRAM,…, rootfs:/FOLDER, oci:/LAYOUT[:TAG], oci-archive:/FILE[:TAG] or docker-archive:/FILE[:NAME]")
}

func parsePrograms(list string) ([]string, error) {
	programs := strings.Split(list, ",")
	seen := make(map[string]bool)
	for i, p := range programs {
		switch {
		case p == "":
			return nil, errors.New("a program's name is empty")
		case strings.HasPrefix(p, "/"):
			programs[i] = path.Clean(p)
		case strings.Contains(p, "/"), p == ".", p == "..":
			return nil, fmt.Errorf("program %q: give a name or an absolute path", p)
		case strings.TrimSpace(p) != p:
			return nil, fmt.Errorf("program %q: there is space around the name", p)
		}
		if programs[i] == "/" {
			return nil, fmt.Errorf("program %q: is not a program", p)
		}
		if seen[programs[i]] {
			return nil, fmt.Errorf("program %q is named twice", p)
		}
		seen[programs[i]] = true
	}
	return programs, nil
}

func parsePath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") {
		return "", fmt.Errorf("path %q is not absolute", p)
	}
	return path.Clean(p), nil
}

// printable is s for an error: quoted where it would not print as it is.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` || s == "" {
		return q
	}
	return s
}
