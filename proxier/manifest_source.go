package proxier

import (
	"context"

	"go.uber.org/zap"
)

// ManifestSource gives what manifest files and folders hold, and follows their changes.
type ManifestSource struct {
	files *FileWatch
	log   *zap.Logger
	set   *manifestSet
	// sent are the objects that the sink has.
	sent *Objects
	// reported are the errors and warnings of the last load: each is logged once, when it appears.
	reported map[string]bool
}

// NewManifestSource returns a source of the manifests at the paths, read as LoadManifests reads them. A
// path that does not exist is waited for. Of a document or file that is broken the last good version
// stays.
func NewManifestSource(paths []string, log *zap.Logger) *ManifestSource {
	set := newManifestSet()
	set.followed = true
	return &ManifestSource{files: NewFileWatch(paths, log), log: log, set: set, sent: NewObjects(), reported: map[string]bool{}}
}

// Run gives the objects to the sink and follows their changes until ctx ends. It returns no other error.
func (s *ManifestSource) Run(ctx context.Context, sink Sink) error {
	synced := false
	return s.files.Run(ctx, func() {
		s.load(sink)
		if !synced {
			synced = true
			sink.Synced()
		}
	})
}

// load reads everything and gives the sink what changed.
func (s *ManifestSource) load(sink Sink) {
	now, errs := s.set.load(s.files.paths)
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
