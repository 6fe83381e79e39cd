package proxier

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// LoadManifests reads files and folders once. Of a folder it reads the files directly inside that end in
// .yaml, .yml or .json and are not hidden, in the order of their names. It returns every object that can
// be used, and an error for each that can't, naming file, document, object and field; so also for an
// object that is there twice, of which the first counts. Objects of other kinds are passed over.
func LoadManifests(paths []string) (*Objects, []error) {
	return newManifestSet().load(paths)
}

// manifestSet remembers what manifests held when they were last good.
type manifestSet struct {
	files map[string]*heldFile
	// good are the objects as last given out.
	good map[objectID]func(*Objects)
	// followed says that files are read again and again, which only regular ones can be.
	followed bool
}

// heldFile is a manifest file as it was last read.
type heldFile struct {
	sum    [sha256.Size]byte
	parsed *manifestFile
	// holds are the objects that the file is taken to hold: those of its last version without errors and
	// those found since. An object of it stays while there is something in the file that may be it: a
	// document that can't be read, or a broken object of a name that was not there, since a file that is
	// being written may end in the middle of a name.
	holds map[objectID]string
}

func newManifestSet() *manifestSet {
	return &manifestSet{files: map[string]*heldFile{}, good: map[objectID]func(*Objects){}}
}

// load reads everything anew. What can't be read stays as it was when it was last good.
func (s *manifestSet) load(paths []string) (*Objects, []error) {
	listed, errs := s.list(paths)
	files := map[string]*heldFile{}
	for _, path := range listed {
		f, err := s.read(path)
		if err != nil {
			errs = append(errs, err)
		}
		files[path] = f
	}
	s.files = files
	objects, more := s.merge(listed)
	return objects, append(errs, more...)
}

// read reads one file; one that didn't change is not parsed again.
func (s *manifestSet) read(path string) (*heldFile, error) {
	old := s.files[path]
	if old == nil {
		old = &heldFile{parsed: &manifestFile{}, holds: map[objectID]string{}}
	}
	data, err := s.content(path)
	if err != nil {
		kept := *old
		kept.sum = [sha256.Size]byte{}
		kept.parsed = &manifestFile{errs: []error{err}}
		return &kept, nil
	}
	sum := sha256.Sum256(data)
	if sum == old.sum {
		return old, nil
	}
	f := &heldFile{sum: sum, parsed: parseManifests(path, data), holds: map[objectID]string{}}
	if f.parsed.mayHold(old.holds) {
		maps.Copy(f.holds, old.holds)
	}
	for _, m := range f.parsed.objects {
		f.holds[m.id] = m.where
	}
	return f, nil
}

func (s *manifestSet) content(path string) ([]byte, error) {
	if s.followed && !isRegular(path) {
		return nil, fmt.Errorf("%s is no regular file, so it can't be followed", path)
	}
	return os.ReadFile(path)
}

// merge puts the objects of all files together, files in order.
func (s *manifestSet) merge(listed []string) (*Objects, []error) {
	var errs []error
	objects, good := NewObjects(), map[objectID]func(*Objects){}
	owner := map[objectID]string{}
	for _, path := range listed {
		f := s.files[path]
		errs = append(errs, f.parsed.errs...)
		for _, m := range f.parsed.objects {
			if m.err != nil {
				errs = append(errs, m.err)
			}
			objects.Warnings = append(objects.Warnings, m.warnings...)
			if first, taken := owner[m.id]; taken {
				errs = append(errs, fmt.Errorf("%s: %s is also in %s, which counts", m.where, m.id, first))
				continue
			}
			owner[m.id] = m.where
			if m.set != nil {
				good[m.id] = m.set
			} else if last := s.good[m.id]; last != nil {
				good[m.id] = last
			}
		}
		for id, where := range f.holds {
			if _, taken := owner[id]; !taken && s.good[id] != nil {
				owner[id], good[id] = where, s.good[id]
			}
		}
	}
	s.good = good
	for _, set := range good {
		set(objects)
	}
	return objects, errs
}

// list returns the files that the paths name, each once, in the order of the paths. A folder that exists
// but can't be listed counts as unchanged.
func (s *manifestSet) list(paths []string) ([]string, []error) {
	var files []string
	var errs []error
	seen := map[string]bool{}
	for _, path := range paths {
		found, err := ManifestFiles(path)
		if err != nil {
			errs = append(errs, err)
			if !errors.Is(err, os.ErrNotExist) {
				found = s.known(path)
			}
		}
		for _, file := range found {
			if !seen[file] {
				seen[file] = true
				files = append(files, file)
			}
		}
	}
	return files, errs
}

// known returns the files that were found at a path before.
func (s *manifestSet) known(path string) []string {
	var files []string
	for _, file := range slices.Sorted(maps.Keys(s.files)) {
		if file == path || filepath.Dir(file) == filepath.Clean(path) {
			files = append(files, file)
		}
	}
	return files
}

// ManifestFiles returns the manifest files at a path as LoadManifests finds them: the path itself, or of a folder the files
// directly inside.
func ManifestFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{filepath.Clean(path)}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if file := filepath.Join(path, e.Name()); manifestName(e.Name()) && isRegular(file) {
			files = append(files, file)
		}
	}
	return files, nil
}

func manifestName(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// isRegular tells whether a path leads to a file that can be read to its end. One that can't be told
// counts, so that reading it reports why.
func isRegular(path string) bool {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		_, err = os.Lstat(path)
		return err == nil
	}
	return err != nil || info.Mode().IsRegular()
}
