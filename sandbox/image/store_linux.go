package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options say where a Store keeps its roots and what it may take them from.
type Options struct {
	// Dir is the store's own folder, made if need be. It must belong to the caller.
	Dir string
	// UIDBase is what a pod's user 0 is on the machine; it is added to each owner in a root.
	// Zero: everything belongs to the caller, whatever the image says.
	UIDBase int
	// Self is the path of this program's binary, for host:svcproxy. Empty: what this process runs.
	Self string
	// AllowFolders are those below which rootfs: references may lie.
	AllowFolders []string
	// MaxBytes bounds what one image may take on disk, unpacked. Zero: DefaultMaxBytes.
	MaxBytes int64
}

// DefaultMaxBytes is enough for any image that a test runs, and too little to fill a disk.
const DefaultMaxBytes = 4 << 30

// maxID is the last user of a pod; owners above it become nobody (65534).
const maxID = 65535

// ErrNotAllowed is wrapped by the error for a rootfs: folder that is not below Options.AllowFolders.
var ErrNotAllowed = errors.New("not below an allowed folder")

// A Store keeps assembled roots. Several, of one or more processes, may share a folder.
type Store struct {
	options Options

	mu      sync.Mutex
	working map[string]chan struct{} // by key; closed when the assembly has ended
}

// The store's folder has
//
//	lock          flocked (shared) while a process assembles
//	tmp/          roots being assembled; what a killed process left is removed by the next Open
//	roots/KEY/    whole ones: root/ and image.json
//
// A root gets to its place by one rename, so what is there is whole.
const (
	lockFile  = "lock"
	tmpDir    = "tmp"
	rootsDir  = "roots"
	rootDir   = "root"
	imageFile = "image.json"
)

// Open makes a store in Options.Dir, or opens the one that is there.
func Open(o Options) (*Store, error) {
	var err error
	if o.Dir == "" {
		return nil, errors.New("image store: Dir is empty")
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if o.UIDBase < 0 || o.UIDBase > math.MaxInt32-maxID {
		return nil, fmt.Errorf("image store: UIDBase %d: leaves no room for %d users", o.UIDBase, maxID+1)
	}
	if o.Self == "" {
		o.Self = "/proc/self/exe" // found even where its path is not, and after an upgrade
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	s := &Store{options: o, working: make(map[string]chan struct{})}
	if err := s.makeFolders(); err != nil {
		return nil, fmt.Errorf("image store %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) makeFolders() error {
	if err := os.MkdirAll(s.options.Dir, 0o711); err != nil {
		return err
	}
	info, err := os.Lstat(s.options.Dir)
	if err != nil {
		return err
	}
	// Who can write here can put anything into pods.
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("is %v of user %d: must be a folder that only user %d can write to", info.Mode(), owner, os.Geteuid())
	}
	for _, dir := range []string{tmpDir, rootsDir} {
		if err := os.MkdirAll(filepath.Join(s.options.Dir, dir), 0o711); err != nil {
			return err
		}
	}
	return s.removeLeftovers()
}

// removeLeftovers empties tmp unless somebody assembles there.
func (s *Store) removeLeftovers() error {
	unlock, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	tmp := filepath.Join(s.options.Dir, tmpDir)
	entries, err := os.ReadDir(tmp)
	for _, e := range entries {
		err = errors.Join(err, RemoveAll(filepath.Join(tmp, e.Name())))
	}
	return err
}

func (s *Store) lock(how int) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.options.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return func() { f.Close() }, nil
}

// Get returns the reference's root file system, assembled if the store does not have it. Programs
// of the machine, and images, that have changed since make a new one; the old one stays, pods may
// use it. Errors begin with the reference.
func (s *Store) Get(ctx context.Context, r Reference) (*Image, error) {
	i, err := s.get(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return i, nil
}

func (s *Store) get(ctx context.Context, r Reference) (*Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var src source
	var err error
	switch r.Kind {
	case RootFS:
		return s.folder(r)
	case Host:
		src, err = s.openHost(r)
	case OCI:
		src, err = s.openLayout(r.Path, r.Tag)
	case OCIArchive:
		src, err = s.openLayoutArchive(ctx, r)
	case DockerArchive:
		src, err = s.openDockerArchive(r)
	default:
		err = fmt.Errorf("no reference of kind %q", r.Kind)
	}
	if err != nil {
		return nil, err
	}
	defer src.close()
	return s.assembled(ctx, src)
}

// A source is what a root is assembled from.
type source interface {
	// key is the same if, and only if, assemble would make the same.
	key() string
	// assemble fills a folder, which is empty, and returns what there is to say about it.
	assemble(ctx context.Context, t *tree) (Config, error)
	close()
}

// assembled returns the source's root: the one that is there, else a new one. Of several callers
// one assembles and the others wait; if it fails the next one tries.
func (s *Store) assembled(ctx context.Context, src source) (*Image, error) {
	key := digest(fmt.Sprintf("1 %d %s", s.options.UIDBase, src.key()))
	for {
		s.mu.Lock()
		others := s.working[key]
		if others == nil {
			mine := make(chan struct{})
			s.working[key] = mine
			s.mu.Unlock()
			defer func() {
				s.mu.Lock()
				delete(s.working, key)
				s.mu.Unlock()
				close(mine)
			}()
			break
		}
		s.mu.Unlock()
		select {
		case <-others:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	place := filepath.Join(s.options.Dir, rootsDir, key)
	i, err := load(place)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.assemble(ctx, src, key, place); err == nil {
			i, err = load(place)
		}
	}
	return i, err
}

// load reads what assemble has written.
func load(place string) (*Image, error) {
	content, err := os.ReadFile(filepath.Join(place, imageFile))
	if err != nil {
		return nil, err
	}
	i := &Image{}
	if err := json.Unmarshal(content, i); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(place, imageFile), err)
	}
	i.Layers = []string{filepath.Join(place, rootDir)}
	return i, nil
}

func (s *Store) assemble(ctx context.Context, src source, key, place string) error {
	unlock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	tmp, err := s.temporary()
	if err != nil {
		return err
	}
	defer RemoveAll(tmp) // gone after the rename; an error is for the next Open

	if err := os.Chmod(tmp, 0o711); err != nil {
		return err
	}
	t, err := newTree(filepath.Join(tmp, rootDir), s.options.UIDBase, s.options.MaxBytes)
	if err != nil {
		return err
	}
	defer t.close()
	config, err := src.assemble(ctx, t)
	if err != nil {
		return err
	}
	if err := t.finish(); err != nil {
		return err
	}
	content, err := json.Marshal(Image{ID: key, Config: config, Skipped: t.skipped})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, imageFile), content, 0o600); err != nil {
		return err
	}
	err = os.Rename(tmp, place)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // another process was faster with the same
	}
	return err
}

// temporary makes a folder in tmp; the caller holds the lock.
func (s *Store) temporary() (string, error) {
	return os.MkdirTemp(filepath.Join(s.options.Dir, tmpDir), "")
}

// Remove removes the store's folder with all roots, also those of other Stores in it. No pod may
// use them any more. RemoveAll(Options.Dir) does the same without a Store.
func (s *Store) Remove() error {
	return RemoveAll(s.options.Dir)
}

// folder is the image of a rootfs: reference: the folder itself.
func (s *Store) folder(r Reference) (*Image, error) {
	real, err := filepath.EvalSymlinks(r.Path)
	if err != nil {
		return nil, err
	}
	allowed := false
	for _, folder := range s.options.AllowFolders {
		if folder, err := filepath.EvalSymlinks(folder); err == nil {
			allowed = allowed || real == folder || folder == "/" || strings.HasPrefix(real, folder+"/")
		}
	}
	if !allowed {
		// Said before anything else about the folder, since a pod's author may not ask for more.
		return nil, fmt.Errorf("%w: a pod would see all of it; allowed are %q", ErrNotAllowed, s.options.AllowFolders)
	}
	if info, err := os.Stat(real); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, errors.New("not a folder")
	}
	return &Image{ID: digest("rootfs " + real), Layers: []string{real}, Config: Config{Env: []string{"PATH=" + defaultPath}}}, nil
}
