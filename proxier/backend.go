package proxier

import (
	"context"

	"svcproxy/plan"
)

// Backend programs the data plane of one IP family. Its methods are called from one goroutine, Watch
// apart, which runs in its own.
type Backend interface {
	// Apply brings a change into the kernel, atomically where the kernel can, and remembers it as
	// acknowledged. After an error nothing of it is acknowledged, and the kernel may hold any of it: a
	// full change puts that right. Errors are a *plan.ServiceError or a *plan.RefusedError where a
	// Service may be at fault; no other error is a Service's fault.
	Apply(ctx context.Context, c plan.Change) (plan.Result, error)
	// Watch calls drifted, with what was seen, when somebody else changes what the backend programmed,
	// until ctx ends. It returns an error when it can't watch any longer.
	Watch(ctx context.Context, drifted func(what string)) error
	// Close releases what the backend holds open; what is programmed stays.
	Close() error
}
