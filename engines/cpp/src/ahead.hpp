// Work that is done while somebody else is waited for: noise is drawn while the network runs.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace ncdeploy::detail {

class Ahead {
  public:
    // step: does one piece of work; returns false when there is none left. Called on a thread of its own, and only
    // between start() and the return of stop().
    explicit Ahead(std::function<bool()> step) : step_(std::move(step)), thread_([this] { loop(); }) {}
    Ahead(const Ahead &) = delete;
    Ahead &operator=(const Ahead &) = delete;
    ~Ahead() {
        set(State::ended);
        thread_.join();
    }

    void start() { set(State::working); }

    // Returns when the piece that is being worked on is done.
    void stop() {
        std::unique_lock<std::mutex> lock(mutex_);
        state_ = State::idle;
        changed_.wait(lock, [this] { return !busy_; });
    }

  private:
    enum class State { idle, working, ended };

    void set(State state) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            state_ = state;
        }
        changed_.notify_all();
    }

    void loop() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return state_ != State::idle; });
            if (state_ == State::ended) {
                return;
            }
            busy_ = true;
            lock.unlock();
            const bool more = step_();
            lock.lock();
            busy_ = false;
            if (!more && state_ == State::working) {
                state_ = State::idle;
            }
            changed_.notify_all();
        }
    }

    std::function<bool()> step_;
    std::mutex mutex_;
    std::condition_variable changed_;
    State state_ = State::idle;
    bool busy_ = false;
    std::thread thread_; // the last, so that all else is there when it begins
};

// Lets it work as long as this lives.
class Meanwhile {
  public:
    explicit Meanwhile(Ahead *ahead) : ahead_(ahead) {
        if (ahead_) {
            ahead_->start();
        }
    }
    Meanwhile(const Meanwhile &) = delete;
    Meanwhile &operator=(const Meanwhile &) = delete;
    ~Meanwhile() {
        if (ahead_) {
            ahead_->stop();
        }
    }

  private:
    Ahead *ahead_;
};

} // namespace ncdeploy::detail
