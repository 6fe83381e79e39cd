package proxier

import "context"

// Source gives the objects that there are and follows their changes.
type Source interface {
	// Run gives what there is to the sink, says Synced, and then gives changes, until ctx ends or until an
	// error that it can't get over.
	Run(ctx context.Context, sink Sink) error
}
