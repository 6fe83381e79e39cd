package proxier

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

// reachAgain is how often it is said that the API server still can't be reached.
const reachAgain = time.Minute

// reachLog is a transport to the API server that says when the server can't be reached and when it can
// again. Informers try for ever, and where a connection is refused they do so without a word.
type reachLog struct {
	next   http.RoundTripper
	server string
	log    *zap.Logger

	mu   sync.Mutex
	said time.Time // zero while the server answers
}

// RoundTrip hands on a request.
func (r *reachLog) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.next.RoundTrip(req)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && !r.said.IsZero():
		r.said = time.Time{}
		r.log.Info("the API server answers again", zap.String("server", r.server))
	case err != nil && !errors.Is(err, context.Canceled) && time.Since(r.said) >= reachAgain:
		r.said = time.Now()
		r.log.Warn("the API server can't be reached; it is tried again, and meanwhile what is programmed stays",
			zap.String("server", r.server), zap.Error(err))
	}
	return res, err
}
