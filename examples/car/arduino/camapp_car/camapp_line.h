// Reads camapp's drive protocol a byte at a time: $CAMAPP,SEQ,STALE,OFFSET,HEADING,CURVATURE,CONFIDENCE,AGE*SUM
// Plain C++ without Arduino's library, so that it compiles and is tested on a PC, too.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct CamappLane {
  float offset;      // metres, right of the lane's middle is positive
  float heading;     // degrees, pointing right of the lane is positive
  float curvature;   // 1/m, a bend to the right is positive
  float confidence;  // 0 to 1
};

class CamappLine {
 public:
  enum Result { NOTHING, LANE, STALE, DAMAGED };
  CamappLane lane;

  // Takes a byte; after the last one of a line, returns what the line says.
  Result take(char byte) {
    if (byte == '$') {
      length_ = 0;
      inside_ = true;
      return NOTHING;
    }
    if (!inside_) return NOTHING;
    if (byte == '\n') {
      inside_ = false;
      text_[length_] = 0;
      return parse();
    }
    if (length_ == sizeof text_ - 1) {
      inside_ = false;
      return DAMAGED;
    }
    text_[length_++] = byte;
    return NOTHING;
  }

 private:
  char text_[84];
  uint8_t length_ = 0;
  bool inside_ = false;

  Result parse() {
    char *star = strchr(text_, '*');
    if (star == nullptr || strlen(star) < 3) return DAMAGED;
    uint8_t sum = 0;
    for (char *c = text_; c < star; c++) sum ^= (uint8_t)*c;
    char digits[3] = {star[1], star[2], 0}, *end;
    if (strtoul(digits, &end, 16) != sum || end != digits + 2) return DAMAGED;
    *star = 0;
    char *field[8] = {text_};
    uint8_t fields = 1;
    for (char *c = text_; *c; c++) {
      if (*c != ',') continue;
      *c = 0;
      if (fields == 8) return DAMAGED;
      field[fields++] = c + 1;
    }
    if (fields != 8 || strcmp(field[0], "CAMAPP") != 0) return DAMAGED;
    if (strcmp(field[2], "1") == 0) return STALE;
    if (strcmp(field[2], "0") != 0) return DAMAGED;
    float values[4];
    for (uint8_t i = 0; i < 4; i++) {
      values[i] = (float)strtod(field[3 + i], &end);
      if (end == field[3 + i] || *end != 0) return DAMAGED;
    }
    lane = CamappLane{values[0], values[1], values[2], values[3]};
    return LANE;
  }
};

// Pure pursuit, as in controller.py: the angle of the front wheels in degrees, right positive.
inline float camapp_steering(const CamappLane &lane, float ahead, float wheelbase, float most) {
  const float degrees = 57.29578f;
  float bend = lane.curvature - 2 * sinf(atan2f(lane.offset, ahead) + lane.heading / degrees) / ahead;
  float angle = atanf(wheelbase * bend) * degrees;
  return angle > most ? most : angle < -most ? -most : angle;
}
