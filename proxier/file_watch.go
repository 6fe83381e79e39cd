package proxier

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

// FileWatch tells when something at paths, files or folders, may have changed.
type FileWatch struct {
	paths []string
	log   *zap.Logger
	// unwatched are the folders that can't be watched, and why: each is logged once.
	unwatched map[string]string

	// settle is how long files must be quiet before they are read, so that a file that is being written is
	// not read half; an editor's steps take milliseconds.
	settle time.Duration
	// poll is how often files are read without notice, since some filesystems (NFS, FUSE) give none.
	poll time.Duration
}

// NewFileWatch returns a watch of the paths, which need not exist yet.
func NewFileWatch(paths []string, log *zap.Logger) *FileWatch {
	return &FileWatch{
		paths:     paths,
		log:       log,
		unwatched: map[string]string{},
		settle:    100 * time.Millisecond,
		poll:      10 * time.Second,
	}
}

// Run calls load at once, and again when something may have changed, until ctx ends. It returns no other error.
func (s *FileWatch) Run(ctx context.Context, load func()) error {
	watcher, err := fsnotify.NewWatcher()
	var events chan fsnotify.Event
	var problems chan error
	if err != nil {
		s.log.Warn("files can't be watched, so changes are noticed late", zap.Duration("every", s.poll), zap.Error(err))
	} else {
		defer func() { _ = watcher.Close() }()
		events, problems = watcher.Events, watcher.Errors
	}
	s.watch(watcher)
	load()
	poll := time.NewTicker(s.poll)
	defer poll.Stop()
	settled := time.NewTimer(s.poll)
	settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-events:
			if s.concerns(e.Name) {
				settled.Reset(s.settle)
			}
			continue
		case err := <-problems:
			s.log.Warn("watching manifests", zap.Error(err))
			settled.Reset(s.settle)
			continue
		case <-poll.C:
		case <-settled.C:
		}
		s.watch(watcher)
		load()
	}
}

// watch watches every folder in which something may happen to the manifests: the folders themselves, those
// that hold a named path, those that symbolic links lead to, and, where one does not exist yet, the
// nearest that does. A folder that was made anew is watched anew.
func (s *FileWatch) watch(w *fsnotify.Watcher) {
	if w == nil {
		return
	}
	for _, root := range s.roots() {
		if info, err := os.Stat(root); err == nil && info.IsDir() {
			s.watchDir(w, root)
		}
		s.watchDir(w, filepath.Dir(root))
	}
}

// watchDir watches a folder, or the nearest above that exists.
func (s *FileWatch) watchDir(w *fsnotify.Watcher, dir string) {
	err := w.Add(dir)
	for errors.Is(err, os.ErrNotExist) && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
		err = w.Add(dir)
	}
	if err == nil {
		delete(s.unwatched, dir)
		return
	}
	if s.unwatched[dir] != err.Error() {
		s.unwatched[dir] = err.Error()
		s.log.Warn("a folder can't be watched, so changes are noticed late", zap.String("folder", dir), zap.Duration("every", s.poll), zap.Error(err))
	}
}

// roots returns the paths and where they lead to by symbolic links, all absolute.
func (s *FileWatch) roots() []string {
	var roots []string
	for _, path := range s.paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			continue
		}
		roots = append(roots, abs)
		if target, err := filepath.EvalSymlinks(abs); err == nil && target != abs {
			roots = append(roots, target)
		}
	}
	return roots
}

// concerns tells whether something that happened to name may change what the manifests hold. Names that
// begin with ".." are how the kubelet swaps the files of a ConfigMap.
func (s *FileWatch) concerns(name string) bool {
	return strings.HasPrefix(filepath.Base(name), "..") || slices.ContainsFunc(s.roots(), func(root string) bool {
		return within(root, name) || within(name, root)
	})
}

// within tells whether path is dir or something in it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
