package clusterdns

import "context"

// Source says what objects there are.
type Source interface {
	// Run gives all there is at first, as one change, and then changes, until ctx ends.
	Run(ctx context.Context, changed func(Changes)) error
}
