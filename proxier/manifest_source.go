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

// ManifestSource gives what manifest files and folders hold, and follows their changes.
type ManifestSource struct {
	paths []string
	log   *zap.Logger
	set   *manifestSet
	// sent are the objects that the sink has.
	sent *Objects
	// reported are the errors and warnings of the last load: each is logged once, when it appears.
	reported map[string]bool
	// unwatched are the folders that can't be watched, and why: each is logged once.
	unwatched map[string]string

	// settle is how long files must be quiet before they are read, so that a file that is being written is
	// not read half; an editor's steps take milliseconds.
	settle time.Duration
	// poll is how often files are read without notice, since some filesystems (NFS, FUSE) give none.
	poll time.Duration
}

// NewManifestSource returns a source of the manifests at the paths, read as LoadManifests reads them. A
// path that does not exist is waited for. Of a document or file that is broken the last good version
// stays.
func NewManifestSource(paths []string, log *zap.Logger) *ManifestSource {
	set := newManifestSet()
	set.followed = true
	return &ManifestSource{
		paths:     paths,
		log:       log,
		set:       set,
		sent:      NewObjects(),
		reported:  map[string]bool{},
		unwatched: map[string]string{},
		settle:    100 * time.Millisecond,
		poll:      10 * time.Second,
	}
}

// Run gives the objects to the sink and follows their changes until ctx ends. It returns no other error.
func (s *ManifestSource) Run(ctx context.Context, sink Sink) error {
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
	s.load(sink)
	sink.Synced()
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
		s.load(sink)
	}
}

// load reads everything and gives the sink what changed.
func (s *ManifestSource) load(sink Sink) {
	now, errs := s.set.load(s.paths)
	s.report(errs, now.Warnings)
	sink.Update(difference(s.sent, now))
	s.sent = now
}

// report logs errors and warnings that the last load did not have.
func (s *ManifestSource) report(errs []error, warnings []string) {
	reported := map[string]bool{}
	for _, err := range errs {
		if reported[err.Error()] = true; !s.reported[err.Error()] {
			s.log.Error("manifest: the last good version, if any, stays", zap.Error(err))
		}
	}
	for _, w := range warnings {
		if reported[w] = true; !s.reported[w] {
			s.log.Warn("manifest: " + w)
		}
	}
	s.reported = reported
}

// difference returns the update that leads from one state to another. Objects that are equal may be in
// it: the sink tells them.
func difference(from, to *Objects) Objects {
	return Objects{
		Services:     withGone(from.Services, to.Services),
		Slices:       withGone(from.Slices, to.Slices),
		Nodes:        withGone(from.Nodes, to.Nodes),
		ServiceCIDRs: withGone(from.ServiceCIDRs, to.ServiceCIDRs),
	}
}

// withGone returns to, with nothing for each name that only from has.
func withGone[K comparable, V any](from, to map[K]V) map[K]V {
	update := make(map[K]V, len(to))
	var nothing V
	for name := range from {
		update[name] = nothing
	}
	for name, v := range to {
		update[name] = v
	}
	return update
}

// watch watches every folder in which something may happen to the manifests: the folders themselves, those
// that hold a named path, those that symbolic links lead to, and, where one does not exist yet, the
// nearest that does. A folder that was made anew is watched anew.
func (s *ManifestSource) watch(w *fsnotify.Watcher) {
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
func (s *ManifestSource) watchDir(w *fsnotify.Watcher, dir string) {
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
func (s *ManifestSource) roots() []string {
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
func (s *ManifestSource) concerns(name string) bool {
	return strings.HasPrefix(filepath.Base(name), "..") || slices.ContainsFunc(s.roots(), func(root string) bool {
		return within(root, name) || within(name, root)
	})
}

// within tells whether path is dir or something in it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
